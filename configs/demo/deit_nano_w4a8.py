# The built-in classifier, a small DeiT, weights of 4 bits.
_base_ = './deit_nano_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
