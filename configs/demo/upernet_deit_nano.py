# The built-in segmentor with a small DeiT: trained from scratch on the demo scenes with mmseg's own training.
# python tools/train.py configs/demo/upernet_deit_nano.py
_base_ = '../_base_/upernet_nano.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        img_size=(128, 128),
        patch_size=8,
        embed_dims=96,
        num_layers=6,
        num_heads=3,
        mlp_ratio=4,
        out_indices=(1, 2, 4, 5),
        qkv_bias=True,
        with_cls_token=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        act_cfg=dict(type='GELU'),
        interpolate_mode='bicubic'),
    # Patches of 8 pixels: maps at strides of 4 to 32, as a Swin's.
    neck=dict(type='MultiLevelNeck', in_channels=[96, 96, 96, 96], out_channels=96, scales=[2, 1, 0.5, 0.25]),
    decode_head=dict(in_channels=[96, 96, 96, 96]))
