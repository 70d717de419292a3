# The Swin authors' Cascade Mask R-CNN with Swin-S, weights of 4 bits.
_base_ = './cascade_mask_rcnn_swin_s_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
