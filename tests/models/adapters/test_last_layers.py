"""Which layers of the hosts' heads compute class scores, box deltas and masks."""

from __future__ import annotations

import copy

import pytest
from mmengine.registry import MODELS, init_default_scope

from psaq_mm.models.adapters.last_layers import last_layers
from psaq_mm.quantization import QuantConv2d, QuantLinear, quantize_model
from psaq_mm.quantization.policy import QuantPolicy

ANCHORS = {
    "type": "AnchorGenerator",
    "ratios": [1.0],
    "octave_base_scale": 8,
    "scales_per_octave": 1,
    "strides": [8, 16],
}
ONE = {**ANCHORS, "strides": [8]}
DENSE = {"num_classes": 3, "in_channels": 8, "feat_channels": 32, "stacked_convs": 1}
VIT = {"num_classes": 3, "in_channels": 8}
HEADS = {
    "rpn": ({"type": "mmdet.RPNHead", "in_channels": 8, "feat_channels": 8}, ["rpn_cls", "rpn_reg"]),
    "retina": ({"type": "mmdet.RetinaHead", **DENSE, "anchor_generator": ANCHORS}, ["retina_cls", "retina_reg"]),
    "fcos": ({"type": "mmdet.FCOSHead", **DENSE}, ["conv_cls", "conv_reg", "conv_centerness"]),
    "atss": (
        {"type": "mmdet.ATSSHead", **DENSE, "anchor_generator": ANCHORS},
        ["atss_cls", "atss_reg", "atss_centerness"],
    ),
    "gfl": ({"type": "mmdet.GFLHead", **DENSE, "anchor_generator": ANCHORS}, ["gfl_cls", "gfl_reg"]),
    "box": ({"type": "mmdet.Shared2FCBBoxHead", "in_channels": 8, "fc_out_channels": 8}, ["fc_cls", "fc_reg"]),
    "mask": ({"type": "mmdet.FCNMaskHead", "in_channels": 8, "conv_out_channels": 8}, ["conv_logits"]),
    "fcn": ({"type": "mmseg.FCNHead", "in_channels": 8, "channels": 8, "num_classes": 3}, ["conv_seg"]),
    "linear": ({"type": "mmpretrain.LinearClsHead", **VIT}, ["fc"]),
    "vit": ({"type": "mmpretrain.VisionTransformerClsHead", **VIT, "hidden_dim": 8}, ["layers.head"]),
    "deit": ({"type": "mmpretrain.DeiTClsHead", **VIT}, ["layers.head", "layers.head_dist"]),
}


@pytest.mark.parametrize(("config", "expected"), HEADS.values(), ids=HEADS.keys())
def test_heads(config, expected):
    init_default_scope(config["type"].partition(".")[0])
    head = MODELS.build(copy.deepcopy(config))
    assert last_layers(head) == expected
    # Their names are the same in the quantized head.
    quantize_model(head, QuantPolicy())
    assert last_layers(head) == expected
    assert all(isinstance(head.get_submodule(name), (QuantLinear, QuantConv2d)) for name in expected)


def test_timm_classifiers():
    timm = pytest.importorskip("timm")
    assert last_layers(timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)) == ["head"]
    assert last_layers(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)) == []
