# mmpretrain's Swin-S (ImageNet top-1 83.21): python tools/dfq.py configs/swin_small_w8a8.py
# The weights are the authors', which the paper quantizes, as mmpretrain converted them.
_base_ = ['mmpretrain::swin_transformer/swin-small_16xb64_in1k.py', './_base_/dfq_imagenet.py']

load_from = 'checkpoints/swin_small_patch4_window7_224-cc7a01c9.pth'
checkpoint_url = 'https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/convert/swin_small_patch4_window7_224-cc7a01c9.pth'  # noqa
