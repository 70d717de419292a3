# The demo: python tools/dfq.py configs/demo/mask_rcnn_swin_nano_w8a8.py
_base_ = ['./mask_rcnn_swin_nano.py', '../_base_/dfq_demo.py']

load_from = 'configs/demo/mask_rcnn_swin_nano.pth'
# For the arms that compare with real images: training scenes, never those of the evaluation.
real_images = dict(
    type='psaq_mm.DemoScenes',
    data_root='data/psaq_demo_real/',
    split='train',
    images=400,
    test_mode=True,
    pipeline=_base_.test_pipeline)
