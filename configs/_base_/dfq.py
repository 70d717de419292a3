# Data-free quantization, as every recipe starts from it. Sizes suit a small model on two CPU cores.
runner_type = 'psaq_mm.DFQRunner'
dfq = dict(
    arm='psaq',
    quiet=True,
    quantization=dict(weight_bits=8, activation_bits=8, scheme='deploy', scope='backbone'),
    images=dict(
        type='psaq_mm.GenerateLoop',
        images=32,
        image_size=(128, 128),
        batch_size=16,
        steps=50,
        generator=dict(
            lr=0.2,
            warmup=5,
            entropy=dict(variant='gaussian'),
            # V1's weight of 439 stands beside a sum over layers; this entropy is their mean.
            prior=dict(weight=50.0))),
    calibrate=dict(type='psaq_mm.CalibrateLoop', images=32, batch_size=8),
    cycle=dict(
        type='psaq_mm.CycleLoop',
        cycles=6,
        generator_steps=8,
        generator_images=16,
        generator=dict(lr=0.1, warmup=2, entropy=dict(variant='gaussian'), prior=dict(weight=50.0)),
        competition=1.0,
        student_steps=15,
        batch_size=8,
        lr=dict(weight=1e-4, bias=1e-4, scale=1e-3),
        distance=dict(form='mae'),
        place='backbone'))
