# Nuclei and background: NUCLEI_ROOT=DIR python tools/dfq.py configs/nuclei/upernet_deit_tiny_w8a8.py
_base_ = ['./upernet_deit_tiny.py', '../_base_/dfq.py']

custom_hooks = [dict(type='psaq_mm.AgreementHook')]
load_from = 'configs/nuclei/upernet_deit_tiny.pth'
# For the arms that compare with real images: training images, never those of the evaluation.
real_images = dict(
    type='psaq_mm.CocoSegments',
    metainfo=_base_.metainfo,
    data_root=_base_.data_root,
    ann_file='train.json',
    data_prefix=dict(img_path='train'),
    test_mode=True,
    pipeline=_base_.test_pipeline)
