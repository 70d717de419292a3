# Nuclei with weights of 4 bits and activations of 4.
_base_ = './mask_rcnn_deit_tiny_w8a8.py'

dfq = dict(quantization=dict(weight_bits=4, activation_bits=4))
