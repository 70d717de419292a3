# mmpretrain's DeiT-T (ImageNet top-1 74.5): python tools/dfq.py configs/deit_tiny_w8a8.py
# The weights are of mmpretrain's own training; the paper's, the authors', are not in its zoo.
_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py', './_base_/dfq_imagenet.py']

load_from = 'checkpoints/deit-tiny_pt-4xb256_in1k_20220218-13b382a0.pth'
checkpoint_url = 'https://mmassets.onedl.ai/mmclassification/v0/deit/deit-tiny_pt-4xb256_in1k_20220218-13b382a0.pth'  # noqa
