# Mask R-CNN on a plain DeiT-S with a feature pyramid, made of parts of mmdet, mmpretrain and mmseg. There is no public
# checkpoint. On COCO, mmdet's training makes one: python tools/train.py configs/_base_/mask_rcnn_deit_s.py
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py'
]

# ImageNet weights to start the training from; quantization never fetches them.
pretrained = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth'  # noqa

model = dict(
    # A patch is 16 pixels and Feature2Pyramid's last map halves the patches: of a multiple of 32, nothing is left over.
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-small',
        # That of the ImageNet weights. Position embeddings are resized to the patches of each input, of whatever size.
        img_size=224,
        patch_size=16,
        # Four, since Feature2Pyramid takes a map for each of its levels, evenly spaced as in mmseg's UPerNet with DeiT.
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    # mmengine runs a list one after the other. The maps are all of stride 16: Feature2Pyramid makes them 4, 8, 16 and
    # 32, as FPN, which only adds neighbours, and the heads expect.
    neck=[
        dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=384,
            rescales=[4, 2, 1, 0.5],
            # Its default of SyncBN needs more images at a time than a detector trains on.
            norm_cfg=dict(type='GN', num_groups=32)),
        dict(type='FPN', in_channels=[384, 384, 384, 384], out_channels=256, num_outs=5)
    ],
    # mmpretrain's maps lie with their channels last, as do those of the neck. mmcv's own RoIAlign reads them as if the
    # channels were first, without an error; torchvision's does not.
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(use_torchvision=True)),
        mask_roi_extractor=dict(roi_layer=dict(use_torchvision=True))))

# Optimizer and warm-up of mmdet's Swin Mask R-CNNs; embeddings and norms are not decayed.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={
            '.cls_token': dict(decay_mult=0.),
            '.pos_embed': dict(decay_mult=0.)
        }))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)
]
