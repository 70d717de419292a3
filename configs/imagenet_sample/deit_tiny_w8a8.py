# timm's DeiT-T on 1000 labelled ImageNet images, one a class, in sizes that two CPU cores can do:
#   IMAGENET_SAMPLE_ROOT=DIR DEIT_TINY=FILE python tools/dfq.py configs/imagenet_sample/deit_tiny_w8a8.py
# DIR holds images/ and labels.txt with a line "file class" each, in the order of the classes. Every eighth image is for
# the arms that compare with real images; the others are evaluated on.
_base_ = '../deit_tiny_timm_w8a8.py'

load_from = '{{$DEIT_TINY:checkpoints/deit_tiny_patch16_224-a1311bcf.pth}}'
sample = dict(
    type='CustomDataset',
    data_root='{{$IMAGENET_SAMPLE_ROOT:data/imagenet_sample}}',
    ann_file='labels.txt',
    data_prefix='images',
    pipeline=_base_.test_pipeline)
test_dataloader = dict(
    batch_size=25,
    num_workers=1,
    persistent_workers=False,
    dataset=dict(_delete_=True, indices=[index for index in range(1000) if index % 8], **sample))
val_dataloader = test_dataloader
real_images = dict(indices=list(range(0, 1000, 8)), test_mode=True, **sample)

dfq = dict(
    generate=dict(steps=70, generator=dict(warmup=7)),
    distill=dict(generator_steps=10, generator_images=8, fresh=0.0, student_steps=15, batch_size=16))
