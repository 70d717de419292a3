# The settings of the recipes of the built-in models and of the Swin detector on nuclei, with which their committed
# results were measured: rounding to the nearest integer, no rotation, no crops, and training. For networks of real size
# see dfq.py.
_base_ = './dfq.py'

dfq = dict(
    quantization=dict(softmax_granularity='per_tensor'),
    generate=dict(image_size=(128, 128), steps=30, generator=dict(lr=0.02, warmup=3)),
    calibrate=dict(rounding='nearest', crops=0),
    distill=dict(
        cycles=6,
        held_out=0,
        generator=dict(lr=0.02),
        relative_lr=dict(weight=3e-3, bias=5e-4, scale=1e-2)),
    by_bits=dict(
        _delete_=True,
        w6a6=dict(quantization=dict(activation_observer='percentile')),
        w4a4=dict(
            quantization=dict(activation_observer='percentile', norm_inputs='per_channel', softmax_grid='log2'))))
