# The built-in classifier, a small DeiT: python tools/dfq.py configs/demo/deit_nano_w8a8.py
_base_ = ['./deit_nano.py', '../_base_/dfq_demo.py']

load_from = 'configs/demo/deit_nano.pth'
# A quarter of a scene's pixels: more images in a batch.
dfq = dict(
    generate=dict(images=64, image_size=(64, 64), batch_size=32),
    calibrate=dict(images=64, batch_size=32),
    distill=dict(cycles=4, generator_images=16, student_steps=10, batch_size=16))
# For the arms that compare with real images: training pictures, never those of the evaluation.
real_images = dict(
    type='psaq_mm.DemoObjects',
    data_root='data/psaq_demo_objects_real/',
    split='train',
    images=400,
    test_mode=True,
    pipeline=_base_.test_pipeline)
