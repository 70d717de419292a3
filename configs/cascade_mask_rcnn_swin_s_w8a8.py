# The Swin authors' Cascade Mask R-CNN with Swin-S (COCO box AP 51.9, mask AP 45.0): python tools/dfq.py configs/cascade_mask_rcnn_swin_s_w8a8.py
# Their checkpoint (checkpoint_url) must be converted first: python tools/convert_swin.py \
#     checkpoints/cascade_mask_rcnn_swin_small_patch4_window7.pth \
#     checkpoints/cascade_mask_rcnn_swin_small_patch4_window7_converted.pth
_base_ = ['./_base_/cascade_mask_rcnn_swin_authors.py', './_base_/dfq_coco.py']

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth'
model = dict(backbone=dict(depths=[2, 2, 18, 2], init_cfg=dict(type='Pretrained', checkpoint=pretrained)))

load_from = 'checkpoints/cascade_mask_rcnn_swin_small_patch4_window7_converted.pth'
checkpoint_url = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.2/cascade_mask_rcnn_swin_small_patch4_window7.pth'  # noqa
