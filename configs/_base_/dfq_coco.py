# Data-free quantization of a full-size detector on one GPU of 24 GB; more memory allows larger micro-batches.
_base_ = './dfq.py'

custom_imports = dict(imports=['psaq_mm'], allow_failed_imports=False)
randomness = dict(seed=0)
dfq = dict(
    generate=dict(
        images=128,
        image_size=(640, 640),
        batch_size=32,
        steps=300,
        generator=dict(warmup=30, micro_batch=4)),
    calibrate=dict(images=64, batch_size=4),
    distill=dict(
        generator_steps=30,
        generator_images=16,
        generator=dict(warmup=5, micro_batch=4),
        student_steps=100,
        batch_size=4))
