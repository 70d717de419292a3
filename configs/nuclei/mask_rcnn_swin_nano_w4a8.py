# Nuclei with weights of 4 bits.
_base_ = './mask_rcnn_swin_nano_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
