# A detector of nuclei on a DeiT-Tiny that starts from ImageNet weights with timm's names. It has the outliers of a
# pretrained transformer, which a small Swin trained from scratch lacks.
# NUCLEI_ROOT=DIR DEIT_TINY=FILE python tools/train.py configs/nuclei/mask_rcnn_deit_tiny.py
_base_ = './mask_rcnn_swin_nano.py'

# psaq_mm.models knows the scheme timm-vit.
custom_imports = dict(imports=['psaq_mm', 'psaq_mm.models'])

model = dict(
    # Feature2Pyramid's last map halves the patches of 16 pixels.
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        img_size=224,
        patch_size=16,
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        drop_path_rate=0.05,
        # Read by tools/train.py alone.
        init_cfg=dict(
            type='Pretrained', checkpoint='timm-vit:{{$DEIT_TINY:checkpoints/deit_tiny_patch16_224-a1311bcf.pth}}')),
    neck=[
        dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=192,
            rescales=[4, 2, 1, 0.5],
            norm_cfg=dict(type='GN', num_groups=32)),
        # Of the backbone's maps, only the last is behind a norm; the others have outliers.
        dict(
            type='FPN',
            in_channels=[192, 192, 192, 192],
            out_channels=64,
            num_outs=5,
            norm_cfg=dict(type='GN', num_groups=8))
    ],
    # mmpretrain's maps lie with their channels last, as do those of the neck. mmcv's own RoIAlign reads them as if the
    # channels were first, without an error; torchvision's does not.
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(use_torchvision=True)),
        mask_roi_extractor=dict(roi_layer=dict(use_torchvision=True))))

max_iters = 800
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    optimizer=dict(lr=5e-4),
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.,
        custom_keys={
            # The backbone starts from trained weights, everything else from random ones.
            'backbone': dict(lr_mult=0.2),
            'backbone.cls_token': dict(lr_mult=0.2, decay_mult=0.),
            'backbone.pos_embed': dict(lr_mult=0.2, decay_mult=0.)
        }))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, T_max=max_iters - 100, end=max_iters, eta_min=1e-6)
]
