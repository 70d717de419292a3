# Data-free quantization, as every recipe starts from it. Its sizes are those of a pretrained backbone of a few million
# parameters, which two CPU cores quantize in minutes.
runner_type = 'psaq_mm.DFQRunner'
dfq = dict(
    progress=True,
    quantization=dict(
        weight_bits=8,
        activation_bits=8,
        scheme='deploy',
        scope='backbone',
        weight_observer='mse',
        # Where attention looks at hundreds of tokens, many get shares of less than a step of 1/255.
        softmax_granularity='per_row',
        # Images have 8 bits: fewer would take what no training gives back, for a thousandth of the weights.
        first_layer=8,
        # In scope 'model': class scores, box deltas and masks. They have few weights.
        last_layers=8),
    generate=dict(
        type='psaq_mm.GenerateLoop',
        images=32,
        image_size=(224, 224),
        batch_size=16,
        steps=40,
        start='fractal',
        generator=dict(
            lr=0.2,
            warmup=4,
            entropy=dict(variant='gaussian'),
            # V1's weight of 439 stands beside a sum over layers; this entropy is their mean.
            prior=dict(weight=50.0),
            keep_smoothness=True)),
    calibrate=dict(
        type='psaq_mm.CalibrateLoop',
        images=32,
        batch_size=8,
        # In generated images, channels vary together in another way than in photographs.
        rounding=dict(type='gptq', shrinkage=0.1),
        crops=2),
    distill=dict(
        type='psaq_mm.DistillLoop',
        # After this calibration, training has not been seen to pay on most networks, see docs/method.md.
        cycles=0,
        generator_steps=6,
        generator_images=8,
        fresh=0.5,
        generator=dict(
            lr=0.2, warmup=1, entropy=dict(variant='gaussian'), prior=dict(weight=50.0), keep_smoothness=True),
        competition=1.0,
        student_steps=15,
        # Images that no student step sees: if training makes the student worse on them, calibration is the result.
        held_out=4,
        batch_size=8,
        relative_lr=dict(weight=3e-4, bias=5e-5, scale=1e-3),
        discrepancy=dict(form='mae'),
        # None: class scores of detectors and segmentors in scope 'model', else the backbone's.
        distill_on=None),
    by_bits=dict(
        # Few channels behind a LayerNorm are much larger than the others. Half of the difference goes into the weights.
        w8a8=dict(quantization=dict(norm_inputs='per_channel', norm_migration=0.5)),
        # At fewer bits rotated channels gain more, and are worth the time that a deployed model takes for them.
        w4a8=dict(quantization=dict(rotation='hadamard')),
        w3a8=dict(quantization=dict(rotation='hadamard')),
        # Below 8 bits, outliers of activations are worth less than the steps they cost, and a uniform grid has no value
        # for the many small shares of attention.
        w6a6=dict(
            quantization=dict(
                activation_observer='percentile',
                norm_inputs='per_channel',
                rotation='hadamard',
                softmax_grid='log2')),
        w4a4=dict(
            quantization=dict(
                activation_observer='percentile',
                percentile=0.1,
                norm_inputs='per_channel',
                rotation='hadamard',
                softmax_grid='log_sqrt2')),
        w3a3=dict(
            quantization=dict(
                activation_observer='percentile',
                percentile=0.1,
                norm_inputs='per_channel',
                rotation='hadamard',
                softmax_grid='log2'))))
