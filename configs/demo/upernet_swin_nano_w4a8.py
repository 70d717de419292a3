# The built-in segmentor with a small Swin, weights of 4 bits.
_base_ = './upernet_swin_nano_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4))
