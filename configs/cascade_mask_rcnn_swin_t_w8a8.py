# The Swin authors' Cascade Mask R-CNN with Swin-T (COCO box AP 50.4, mask AP 43.7): python tools/dfq.py configs/cascade_mask_rcnn_swin_t_w8a8.py
# Their checkpoint (checkpoint_url) must be converted first: python tools/convert_swin.py \
#     checkpoints/cascade_mask_rcnn_swin_tiny_patch4_window7.pth \
#     checkpoints/cascade_mask_rcnn_swin_tiny_patch4_window7_converted.pth
_base_ = ['./_base_/cascade_mask_rcnn_swin_authors.py', './_base_/dfq_coco.py']

load_from = 'checkpoints/cascade_mask_rcnn_swin_tiny_patch4_window7_converted.pth'
checkpoint_url = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.2/cascade_mask_rcnn_swin_tiny_patch4_window7.pth'  # noqa
