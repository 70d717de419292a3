# timm's DeiT-B with its authors' weights (ImageNet top-1 81.8): python tools/dfq.py configs/deit_base_timm_w8a8.py
_base_ = './_base_/timm_imagenet.py'

model = dict(model_name='deit_base_patch16_224')
load_from = 'checkpoints/deit_base_patch16_224-b5f2ef4d.pth'
checkpoint_url = 'https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth'  # noqa
