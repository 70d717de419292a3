# Nuclei and background of BBBC038 (mask_rcnn_swin_nano.py) by a UPerNet on a DeiT-Tiny that starts from timm's ImageNet
# weights. Maps are drawn from the masks of the COCO JSON.
# NUCLEI_ROOT=DIR DEIT_TINY=FILE python tools/train.py configs/nuclei/upernet_deit_tiny.py
_base_ = '../_base_/upernet_nano.py'

# psaq_mm.models knows the scheme timm-vit.
custom_imports = dict(imports=['psaq_mm', 'psaq_mm.models'])
model = dict(
    # Evaluated images are of many sizes; Feature2Pyramid's last map halves the patches of 16 pixels.
    data_preprocessor=dict(size=(256, 256), test_cfg=dict(size_divisor=32)),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        img_size=224,
        patch_size=16,
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        drop_path_rate=0.05,
        init_cfg=dict(
            type='Pretrained', checkpoint='timm-vit:{{$DEIT_TINY:checkpoints/deit_tiny_patch16_224-a1311bcf.pth}}')),
    neck=dict(
        type='Feature2Pyramid', embed_dim=192, rescales=[4, 2, 1, 0.5], norm_cfg=dict(type='GN', num_groups=32)),
    decode_head=dict(in_channels=[192, 192, 192, 192], num_classes=2))

data_root = '{{$NUCLEI_ROOT:data/nuclei}}/'
metainfo = dict(classes=('background', 'nucleus'), palette=[(0, 0, 0), (220, 20, 60)])
scale = (400, 320)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='psaq_mm.LoadCocoSegments'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256)),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='psaq_mm.LoadCocoSegments'),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        _delete_=True,
        type='psaq_mm.CocoSegments',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img_path='train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        _delete_=True,
        type='psaq_mm.CocoSegments',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='val.json',
        data_prefix=dict(img_path='val'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 500
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.,
        custom_keys={
            # The backbone starts from trained weights, everything else from random ones.
            'backbone': dict(lr_mult=0.1),
            'backbone.cls_token': dict(lr_mult=0.1, decay_mult=0.),
            'backbone.pos_embed': dict(lr_mult=0.1, decay_mult=0.)
        }))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, T_max=max_iters - 100, end=max_iters, eta_min=1e-6)
]
