# The built-in segmentor with a small Swin: python tools/dfq.py configs/demo/upernet_swin_nano_w8a8.py
_base_ = ['./upernet_swin_nano.py', '../_base_/dfq_demo.py']

load_from = 'configs/demo/upernet_swin_nano.pth'
# Fewer steps than the detector's: a run takes about a minute on one core.
dfq = dict(distill=dict(cycles=4, student_steps=10))
# For the arms that compare with real images: training scenes, never those of the evaluation.
real_images = dict(
    type='psaq_mm.DemoSegments',
    data_root='data/psaq_demo_segments_real/',
    split='train',
    images=400,
    test_mode=True,
    pipeline=_base_.test_pipeline)
