# timm's Swin-S, weights of 4 bits.
_base_ = './swin_small_timm_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
