"""Which configs are one group, and which of the groups come first."""

from __future__ import annotations

import copy
from importlib import import_module

import pytest
from mmdet.models import FPN

from dev.zoo.configs import ZooConfig
from dev.zoo.groups import grouped, representatives, structure_key
from dev.zoo.kinds import TRANSFORMERS, backbone_config, backbone_name, kind_of, needs_of
from psaq_mm.models import HOSTS

DETECTOR = {
    "type": "MaskRCNN",
    "data_preprocessor": {"type": "DetDataPreprocessor", "mean": [123.7], "std": [58.4], "pad_size_divisor": 32},
    "backbone": {
        "type": "ResNet",
        "depth": 50,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"},
    },
    "neck": {"type": "FPN", "in_channels": [256, 512], "out_channels": 256},
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_head": {"type": "Shared2FCBBoxHead", "num_classes": 80, "loss_cls": {"type": "CrossEntropyLoss"}},
    },
    "train_cfg": {"rpn": {"pos_weight": -1}},
    "test_cfg": {"rcnn": {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}}},
}


def changed(path: str, value: object) -> dict:
    """The detector with a key changed."""
    model = copy.deepcopy(DETECTOR)
    part = model
    *parents, last = path.split(".")
    for key in parents:
        part = part[key]
    part[last] = value
    return model


SAME = {
    "classes": ("roi_head.bbox_head.num_classes", 20),
    "loss": ("roi_head.bbox_head.loss_cls", {"type": "FocalLoss"}),
    "weights": ("backbone.init_cfg", None),
    "pixels": ("data_preprocessor.mean", [0.0]),
    "training": ("train_cfg", None),
    "threshold": ("test_cfg.rcnn.score_thr", 0.5),
    "checkpointing": ("backbone.with_cp", True),
    "drop path": ("backbone.drop_path_rate", 0.2),
    "synchronized": ("backbone.norm_cfg", {"type": "SyncBN", "requires_grad": False}),
    "scope": ("backbone.type", "mmdet.ResNet"),
    "class": ("neck.type", FPN),
    "full name": ("neck.type", "mmdet.models.FPN"),
}
OTHER = {
    "depth": ("backbone.depth", 101),
    "width": ("neck.out_channels", 128),
    "norm": ("backbone.norm_cfg", {"type": "GN", "num_groups": 32}),
    "head": ("roi_head.bbox_head.type", "DoubleConvFCBBoxHead"),
    "nms": ("test_cfg.rcnn.nms.type", "soft_nms"),
    "factor": ("backbone.widen_factor", 0.5),
    "preprocessor": ("data_preprocessor.type", "BatchFixedSizePad"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_does_not_change_the_structure(change):
    assert structure_key(changed(*change), "mmdet") == structure_key(DETECTOR, "mmdet")


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_changes_the_structure(change):
    assert structure_key(changed(*change), "mmdet") != structure_key(DETECTOR, "mmdet")


def test_a_layer_scale_is_there_or_not():
    keys = [structure_key(changed("backbone.layer_scale_init_value", value), "mmdet") for value in (0.0, 1e-6, 0.1)]
    assert keys[0] != keys[1] == keys[2]


def test_groups_have_the_smallest_of_each_combination_first():
    models = {
        "large": changed("backbone.depth", 101),
        "small": DETECTOR,
        "small_voc": changed("roi_head.bbox_head.num_classes", 20),
        "swin": changed("backbone", {"type": "SwinTransformer", "embed_dims": 96}),
    }
    configs = [ZooConfig("mmdet", name, "mmdet", model) for name, model in models.items()]
    configs += [ZooConfig("mmdet", "schedule", "mmdet"), ZooConfig("mmdet", "broken", "mmdet", error="NameError")]
    groups = grouped(configs)
    assert [(group.config, group.covers) for group in groups] == [
        ("swin", ("swin",)),
        ("small", ("small", "small_voc")),
        ("large", ("large",)),
    ]
    assert {group.config for group in representatives(groups)} == {"small", "swin"}
    assert [group.kind for group in groups] == ["transformer", "other", "other"]


KINDS = {
    "timm": ({"type": "TimmClassifier", "model_name": "vit"}, "timm", "mmpretrain.TimmClassifier"),
    "huggingface": ({"type": "HuggingFaceClassifier"}, "huggingface", "mmpretrain.HuggingFaceClassifier"),
    "own scope": ({"type": "X", "backbone": {"type": "mmseg.MixVisionTransformer"}}, "transformer", None),
    "tracker": (
        {"type": "ByteTrack", "detector": {"type": "YOLOX", "backbone": {"type": "CSPDarknet"}}},
        "other",
        None,
    ),
    "lora": ({"type": "X", "backbone": {"type": "LoRAModel", "module": {"type": "SVT"}}}, "transformer", None),
}


@pytest.mark.parametrize(("model", "kind", "name"), KINDS.values(), ids=KINDS)
def test_kinds(model, kind, name):
    assert kind_of(model) == kind
    expected = name or f"mmpretrain.{backbone_config(model)['type']}".replace("mmpretrain.mmseg", "mmseg")
    assert backbone_name(model, "mmpretrain") == expected


def test_a_text_branch_needs_more():
    assert needs_of({"type": "GLIP", "backbone": {}, "language_model": {"type": "BertModel"}}) == "language"
    assert needs_of(DETECTOR) == ""


def test_every_transformer_is_a_class_of_a_library():
    known = {name for host in HOSTS for name in import_module(f"{host}.registry").MODELS.module_dict}
    for host in HOSTS:
        import_module(f"{host}.models")
        known |= set(import_module(f"{host}.registry").MODELS.module_dict)
    missing = TRANSFORMERS - known
    assert not missing
