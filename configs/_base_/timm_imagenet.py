# A classifier of timm's, through mmpretrain, on ImageNet as the weights' authors evaluated it.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py', 'mmpretrain::_base_/default_runtime.py', './dfq_imagenet.py'
]

model = dict(type='TimmClassifier', loss=dict(type='CrossEntropyLoss'))
test_cfg = dict()
val_cfg = dict()
custom_hooks = [dict(type='psaq_mm.AgreementHook')]
# The whole model, as classifiers are usually quantized; timm's has no part called backbone.
dfq = dict(quantization=dict(scope='model'))
