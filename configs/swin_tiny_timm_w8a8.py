# timm's Swin-T with its authors' weights (ImageNet top-1 81.2): python tools/dfq.py configs/swin_tiny_timm_w8a8.py
_base_ = './_base_/timm_imagenet.py'

model = dict(model_name='swin_tiny_patch4_window7_224')
load_from = 'checkpoints/swin_tiny_patch4_window7_224.ms_in1k/pytorch_model.bin'
checkpoint_url = 'https://huggingface.co/timm/swin_tiny_patch4_window7_224.ms_in1k/resolve/main/pytorch_model.bin'  # noqa
