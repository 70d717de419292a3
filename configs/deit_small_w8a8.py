# mmpretrain's DeiT-S (ImageNet top-1 80.69): python tools/dfq.py configs/deit_small_w8a8.py
# The weights are of mmpretrain's own training; the paper's, the authors', are not in its zoo.
_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py', './_base_/dfq_imagenet.py']

load_from = 'checkpoints/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth'
checkpoint_url = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth'  # noqa
