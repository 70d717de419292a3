# The same, weights of 6 bits and activations of 6.
_base_ = './deit_tiny_w8a8.py'

dfq = dict(quantization=dict(weight_bits=6, activation_bits=6))
