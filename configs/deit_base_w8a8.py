# mmpretrain's DeiT-B (ImageNet top-1 81.79): python tools/dfq.py configs/deit_base_w8a8.py
# The weights are the authors', which the paper quantizes, as mmpretrain converted them.
_base_ = ['mmpretrain::deit/deit-base_16xb64_in1k.py', './_base_/dfq_imagenet.py']

load_from = 'checkpoints/deit-base_3rdparty_pt-16xb64_in1k_20211124-6f40c188.pth'
checkpoint_url = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-base_3rdparty_pt-16xb64_in1k_20211124-6f40c188.pth'  # noqa
