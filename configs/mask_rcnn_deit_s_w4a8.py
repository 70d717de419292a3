# Mask R-CNN with DeiT-S and a feature pyramid, weights of 4 bits. There is no public checkpoint.
_base_ = './mask_rcnn_deit_s_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
