# mmseg's UPerNet with DeiT-S, weights of 4 bits.
_base_ = './upernet_deit_s_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
