# Mask R-CNN with DeiT-S and a feature pyramid: python tools/dfq.py configs/mask_rcnn_deit_s_w8a8.py
# There is no public checkpoint. The one that load_from names is what this leaves after its last epoch on COCO:
# python tools/train.py configs/_base_/mask_rcnn_deit_s.py
_base_ = ['./_base_/mask_rcnn_deit_s.py', './_base_/dfq_coco.py']

load_from = 'work_dirs/mask_rcnn_deit_s/epoch_12.pth'
checkpoint_training = 'configs/_base_/mask_rcnn_deit_s.py'
