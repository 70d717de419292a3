# timm's DeiT-T with its authors' weights (ImageNet top-1 72.2): python tools/dfq.py configs/deit_tiny_timm_w8a8.py
_base_ = './_base_/timm_imagenet.py'

model = dict(model_name='deit_tiny_patch16_224')
load_from = 'checkpoints/deit_tiny_patch16_224-a1311bcf.pth'
checkpoint_url = 'https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth'  # noqa
