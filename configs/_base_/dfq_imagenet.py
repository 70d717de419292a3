# Data-free quantization of an ImageNet classifier on a GPU: small images, so more of them than a detector's. Where its
# memory does not suffice, smaller micro-batches and batches do.
_base_ = './dfq.py'

custom_imports = dict(imports=['psaq_mm'], allow_failed_imports=False)
dfq = dict(
    # Plain transformers look at 197 tokens, many of them evenly: shares of 1/197 need more than steps of 1/255.
    quantization=dict(softmax_granularity='per_row'),
    generate=dict(
        images=256,
        image_size=(224, 224),
        batch_size=64,
        steps=300,
        generator=dict(warmup=30, micro_batch=32)),
    calibrate=dict(images=64, batch_size=32),
    distill=dict(
        cycles=10,
        generator_steps=30,
        generator_images=32,
        generator=dict(warmup=5, micro_batch=32),
        student_steps=100,
        batch_size=32,
        distill_on='blocks'))
