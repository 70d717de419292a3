# The same, weights of 4 bits.
_base_ = './deit_tiny_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4, activation_bits=8))
