# mmpretrain's Swin-T (ImageNet top-1 81.18): python tools/dfq.py configs/swin_tiny_w8a8.py
# The weights are the authors', which the paper quantizes, as mmpretrain converted them.
_base_ = ['mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', './_base_/dfq_imagenet.py']

load_from = 'checkpoints/swin_tiny_patch4_window7_224-160bb0a5.pth'
checkpoint_url = 'https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/convert/swin_tiny_patch4_window7_224-160bb0a5.pth'  # noqa
