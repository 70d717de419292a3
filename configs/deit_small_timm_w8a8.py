# timm's DeiT-S with its authors' weights (ImageNet top-1 79.9): python tools/dfq.py configs/deit_small_timm_w8a8.py
_base_ = './_base_/timm_imagenet.py'

model = dict(model_name='deit_small_patch16_224')
load_from = 'checkpoints/deit_small_patch16_224-cd65a155.pth'
checkpoint_url = 'https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth'  # noqa
