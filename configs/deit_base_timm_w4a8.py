# timm's DeiT-B, weights of 4 bits.
_base_ = './deit_base_timm_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
