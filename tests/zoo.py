"""Small models of each kind with random weights, as a host's config describes them."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from tests.conftest import random_weights

SWIN = {"type": "mmdet.SwinTransformer", "embed_dims": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
CHANNELS = [16, 32, 64, 128]
FPN = {"type": "FPN", "in_channels": CHANNELS, "out_channels": 16, "num_outs": 5}
ANCHORS = {"type": "AnchorGenerator", "ratios": [0.5, 1.0], "scales": [4], "strides": [4, 8, 16, 32, 64]}
CODER = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}
SOFTMAX = {"type": "CrossEntropyLoss", "use_sigmoid": False}
SIGMOID = {"type": "CrossEntropyLoss", "use_sigmoid": True}
L1 = {"type": "L1Loss"}
NMS = {"type": "nms", "iou_threshold": 0.7}
DENSE_TEST = {"nms_pre": 50, "min_bbox_size": 0, "score_thr": 0.0, "nms": NMS, "max_per_img": 10}


def extractor(size: int) -> dict[str, Any]:
    """A RoI extractor for features of ``size`` by ``size``."""
    layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 2}
    return {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": 16, "featmap_strides": [4, 8, 16, 32]}


BOX_HEAD = {
    "type": "Shared2FCBBoxHead",
    "in_channels": 16,
    "fc_out_channels": 32,
    "roi_feat_size": 7,
    "num_classes": 3,
    "bbox_coder": CODER,
    "reg_class_agnostic": True,
    "loss_cls": SOFTMAX,
    "loss_bbox": L1,
}
MASK_HEAD = {
    "type": "FCNMaskHead",
    "num_convs": 1,
    "in_channels": 16,
    "conv_out_channels": 16,
    "num_classes": 3,
    "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
}
RPN = {
    "type": "RPNHead",
    "in_channels": 16,
    "feat_channels": 16,
    "anchor_generator": ANCHORS,
    "bbox_coder": CODER,
    "loss_cls": SIGMOID,
    "loss_bbox": L1,
}
TWO_STAGE_TEST = {
    "rpn": {"nms_pre": 50, "max_per_img": 20, "nms": NMS, "min_bbox_size": 0},
    "rcnn": {"score_thr": 0.0, "nms": NMS, "max_per_img": 5, "mask_thr_binary": 0.5},
}
UPER_HEAD = {
    "type": "UPerHead",
    "in_channels": CHANNELS,
    "in_index": [0, 1, 2, 3],
    "channels": 16,
    "num_classes": 4,
    "norm_cfg": {"type": "BN"},
    "align_corners": False,
    "loss_decode": SOFTMAX,
}
ONE_MAP = {**UPER_HEAD, "in_channels": CHANNELS[2], "in_index": 2}
FCN_HEAD = {**ONE_MAP, "type": "FCNHead", "num_convs": 1}
MM_SEG = {"train_cfg": {}, "test_cfg": {"mode": "whole"}}
DETECTORS = {
    "mask_rcnn": {
        "type": "MaskRCNN",
        "train_cfg": None,
        "backbone": SWIN,
        "neck": FPN,
        "rpn_head": RPN,
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": extractor(7),
            "bbox_head": BOX_HEAD,
            "mask_roi_extractor": extractor(14),
            "mask_head": MASK_HEAD,
        },
        "test_cfg": TWO_STAGE_TEST,
    },
    "cascade": {
        "type": "CascadeRCNN",
        "backbone": SWIN,
        "neck": FPN,
        "rpn_head": RPN,
        "roi_head": {
            "type": "CascadeRoIHead",
            "num_stages": 2,
            "stage_loss_weights": [1, 0.5],
            "bbox_roi_extractor": extractor(7),
            "bbox_head": [BOX_HEAD, BOX_HEAD],
            "mask_roi_extractor": extractor(14),
            "mask_head": MASK_HEAD,  # one config for both stages
        },
        "test_cfg": TWO_STAGE_TEST,
    },
    "gfl": {  # its results need a constant of the head, the bins of the distribution
        "type": "GFL",
        "backbone": SWIN,
        "neck": FPN,
        "bbox_head": {
            "type": "GFLHead",
            "num_classes": 3,
            "in_channels": 16,
            "stacked_convs": 1,
            "feat_channels": 16,
            "norm_cfg": {"type": "GN", "num_groups": 4},
            "anchor_generator": {**ANCHORS, "ratios": [1.0], "scales": [8]},
            "loss_cls": {"type": "QualityFocalLoss"},
            "loss_dfl": {"type": "DistributionFocalLoss"},
            "reg_max": 4,
            "loss_bbox": {"type": "GIoULoss"},
        },
        "test_cfg": DENSE_TEST,
    },
}
SEGMENTORS = {
    "upernet": {
        "type": "EncoderDecoder",
        "backbone": SWIN,
        "decode_head": UPER_HEAD,
        "auxiliary_head": FCN_HEAD,
        **MM_SEG,
    },
    "cascade_segmentor": {
        "type": "CascadeEncoderDecoder",
        "num_stages": 2,
        "backbone": SWIN,
        "decode_head": [FCN_HEAD, {**ONE_MAP, "type": "OCRHead", "ocr_channels": 8}],
        **MM_SEG,
    },
}
VIT = {"type": "VisionTransformer", "img_size": 64, "patch_size": 16}
VIT_ARCH = {"embed_dims": 32, "num_layers": 2, "num_heads": 2, "feedforward_channels": 64}
CLASSIFIERS = {
    "classifier": {
        "type": "ImageClassifier",
        "backbone": {**VIT, "arch": VIT_ARCH},
        "head": {"type": "VisionTransformerClsHead", "num_classes": 5, "in_channels": 32},
    },
    "timm_classifier": {
        "type": "TimmClassifier",
        "model_name": "vit_tiny_patch16_224",
        "img_size": 64,
        "depth": 2,
        "num_classes": 5,
    },
}
SCOPES = {**dict.fromkeys(DETECTORS, "mmdet"), **dict.fromkeys(SEGMENTORS, "mmseg")}
SCOPES |= dict.fromkeys(CLASSIFIERS, "mmpretrain")
KINDS = {**DETECTORS, **SEGMENTORS, **CLASSIFIERS}


def model_config(kind: str) -> ConfigDict:
    """A copy of the config of a kind, in whose library's scope models are then built."""
    init_default_scope(SCOPES[kind])
    return ConfigDict(copy.deepcopy(KINDS[kind]))


def build(config: ConfigDict) -> nn.Module:
    """The model with random weights, in eval mode."""
    return random_weights(MODELS.build(copy.deepcopy(config)))
