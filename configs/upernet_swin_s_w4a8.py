# mmseg's UPerNet with Swin-S, weights of 4 bits.
_base_ = './upernet_swin_s_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
