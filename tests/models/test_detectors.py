"""Scope ``model`` for mmdet's one-stage detectors and DETRs, on tiny models with random weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.deployment.parts import static_parts
from psaq_mm.engine.builder import build_student, keep_unreached
from psaq_mm.errors import UsageError
from psaq_mm.models import artifact_model, calibration_function, output_function, policy_of
from psaq_mm.models.features.detectors import any_score
from psaq_mm.quantization import calibrating, coverage, quantizers
from tests.conftest import random_weights
from tests.zoo import DETECTORS

SIZE = 64, 64
SWIN = {
    "type": "SwinTransformer",
    "embed_dims": 16,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "out_indices": (1, 2, 3),
}
GROUPS = {"type": "GN", "num_groups": 8}
MAPPER = {
    "type": "ChannelMapper",
    "in_channels": [32, 64, 128],
    "kernel_size": 1,
    "out_channels": 32,
    "act_cfg": None,
    "norm_cfg": GROUPS,
    "num_outs": 4,
}
WHOLE: dict[str, Any] = {"embed_dims": 32, "num_heads": 4, "batch_first": True}
DEFORMABLE = {**WHOLE, "num_levels": 4}
FFN = {"embed_dims": 32, "feedforward_channels": 32, "num_fcs": 2}
POSITIONS = {"num_feats": 16, "normalize": True}
FOCAL = {"num_classes": 3, "embed_dims": 32, "loss_cls": {"type": "FocalLoss", "use_sigmoid": True}}


def layers(
    count: int, attention: dict[str, Any], cross: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """The config of a transformer's encoder, or of its decoder."""
    layer = {"self_attn_cfg": attention, "ffn_cfg": FFN, **({"cross_attn_cfg": cross} if cross else {})}
    return {"num_layers": count, "layer_cfg": layer, **({"return_intermediate": True} if cross else {}), **options}


def deformable(kind: str, **options: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "num_queries": 10,
        "with_box_refine": True,
        "backbone": SWIN,
        "neck": MAPPER,
        "encoder": layers(1, DEFORMABLE),
        "decoder": layers(2, WHOLE, DEFORMABLE, post_norm_cfg=None),
        "positional_encoding": POSITIONS,
        **options,
    }


MASK_TRANSFORMER = {
    "type": "Mask2FormerHead",
    "in_channels": [16, 32, 64, 128],
    "strides": [4, 8, 16, 32],
    "feat_channels": 32,
    "out_channels": 32,
    "num_things_classes": 2,
    "num_stuff_classes": 1,
    "num_queries": 10,
    "num_transformer_feat_level": 3,
    "pixel_decoder": {
        "type": "MSDeformAttnPixelDecoder",
        "num_outs": 3,
        "norm_cfg": GROUPS,
        "encoder": layers(1, {**DEFORMABLE, "num_levels": 3}),
        "positional_encoding": POSITIONS,
    },
    "positional_encoding": POSITIONS,
    "transformer_decoder": layers(2, WHOLE, WHOLE, init_cfg=None),
    "loss_cls": {"type": "CrossEntropyLoss", "class_weight": [1.0] * 3 + [0.1]},
}
FUSION = {"type": "MaskFormerFusionHead", "num_things_classes": 2, "num_stuff_classes": 1}
DENOISING = {
    "label_noise_scale": 0.5,
    "box_noise_scale": 1.0,
    "group_cfg": {"dynamic": True, "num_groups": None, "num_dn_queries": 10},
}
TRANSFORMERS = {
    "detr": {
        "type": "DETR",
        "num_queries": 10,
        "backbone": {**SWIN, "out_indices": (3,)},
        "neck": {**MAPPER, "in_channels": [128], "num_outs": 1},
        "encoder": layers(1, WHOLE),
        "decoder": layers(2, WHOLE, WHOLE),
        "positional_encoding": POSITIONS,
        "bbox_head": {
            "type": "DETRHead",
            "num_classes": 3,
            "embed_dims": 32,
            "loss_cls": {"type": "CrossEntropyLoss", "class_weight": 1.0},
        },
    },
    "deformable-detr": deformable(
        "DeformableDETR", num_feature_levels=4, bbox_head={"type": "DeformableDETRHead", **FOCAL}
    ),
    "dino": deformable("DINO", as_two_stage=True, bbox_head={"type": "DINOHead", **FOCAL}, dn_cfg=DENOISING),
    "mask2former": {
        "type": "Mask2Former",
        "backbone": {**SWIN, "out_indices": (0, 1, 2, 3)},
        "panoptic_head": MASK_TRANSFORMER,
        "panoptic_fusion_head": FUSION,
        "test_cfg": {"panoptic_on": False},
    },
}
ANCHORS = {
    "type": "AnchorGenerator",
    "ratios": [1.0],
    "octave_base_scale": 8,
    "scales_per_octave": 1,
    "strides": [8, 16, 32, 64],
}


def one_stage(kind: str, head: str, **options: Any) -> dict[str, Any]:
    bare = {"type": head, "num_classes": 3, "in_channels": 32, "feat_channels": 32, "stacked_convs": 2}
    return {"type": kind, "backbone": SWIN, "neck": MAPPER, "bbox_head": {**bare, **options}}


ONE_STAGE = {
    "retina": one_stage("RetinaNet", "RetinaHead", anchor_generator=ANCHORS),
    "atss": one_stage("ATSS", "ATSSHead", anchor_generator=ANCHORS),
    "gfl": one_stage("GFL", "GFLHead", anchor_generator=ANCHORS),
    "fcos": one_stage("FCOS", "FCOSHead", strides=[8, 16, 32, 64]),
    "rtmdet": one_stage(
        "RTMDet",
        "RTMDetSepBNHead",
        anchor_generator={"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32, 64]},
        bbox_coder={"type": "DistancePointBBoxCoder"},
    ),
    "tood": one_stage("TOOD", "TOODHead", anchor_generator=ANCHORS, num_dcn=0),
}
# Of TOOD: the head multiplies by its weight without calling it.
UNREACHED = {"tood": ["bbox_head.cls_decomp.reduction_conv.conv", "bbox_head.reg_decomp.reduction_conv.conv"]}
REASON = "no image of the calibration reaches it"


def pair(config: dict[str, Any]) -> tuple[nn.Module, nn.Module, Any, ConfigDict]:
    """Teacher and student, the policy, and the config of the quantized model."""
    init_default_scope("mmdet")
    described, quantization = ConfigDict(copy.deepcopy(config)), {"scope": "model"}
    teacher = random_weights(MODELS.build(copy.deepcopy(described))).eval()
    artifact = artifact_model(described, quantization)
    policy = keep_unreached(artifact, teacher, SIZE, policy_of(quantization)[0])
    return teacher, build_student(artifact, teacher), policy, artifact


@pytest.mark.parametrize("name", [*TRANSFORMERS, *ONE_STAGE])
@torch.no_grad()
def test_every_layer_is_calibrated_or_has_a_reason(name):
    teacher, student, policy, artifact = pair({**TRANSFORMERS, **ONE_STAGE}[name])
    forward, images = calibration_function("model", teacher), torch.randn(2, 3, *SIZE)
    with calibrating(student):
        forward(student, images)
    ours, theirs = forward(student, images), forward(teacher, images)
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    # Those of a two-stage DETR depend on which queries were selected, so values are not compared.
    assert all(bool(torch.isfinite(one).all()) for one in ours)
    rows = coverage(student, policy).rows
    left = [row for row in rows if row.kind == "weight" and row.bits is None]
    unreached = UNREACHED.get(name, [])
    assert [row.name.removesuffix(".weight") for row in left] == unreached
    assert {row.reason for row in left} <= {REASON}
    # The artifact builds the same model again.
    again = MODELS.build(artifact)
    assert {key for key, _ in quantizers(again)} == {key for key, _ in quantizers(student)}
    again.load_state_dict(student.state_dict())
    offsets = [row.bits for row in rows if row.name.endswith("sampling_offsets.weight")]
    assert offsets == [8] * {"deformable-detr": 3, "dino": 3, "mask2former": 1}.get(name, 0)


def sparse_rcnn() -> dict[str, Any]:
    """Its own forward asks for annotations."""
    head = {
        "type": "DIIHead",
        "num_classes": 3,
        "num_heads": 2,
        "num_cls_fcs": 1,
        "num_reg_fcs": 1,
        "num_ffn_fcs": 2,
        "feedforward_channels": 32,
        "in_channels": 32,
        "dropout": 0.0,
        "dynamic_conv_cfg": {"type": "DynamicConv", "in_channels": 32, "feat_channels": 8, "input_feat_shape": 7},
        "loss_bbox": {"type": "L1Loss"},
        "loss_iou": {"type": "GIoULoss"},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "clip_border": False, "target_stds": [0.5, 0.5, 1.0, 1.0]},
    }
    return {
        "type": "SparseRCNN",
        "backbone": SWIN,
        "neck": MAPPER,
        "rpn_head": {"type": "EmbeddingRPNHead", "num_proposals": 10, "proposal_feature_channel": 32},
        "roi_head": {
            "type": "SparseRoIHead",
            "num_stages": 2,
            "stage_loss_weights": [1, 1],
            "proposal_feature_channel": 32,
            "bbox_roi_extractor": {
                "type": "SingleRoIExtractor",
                "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2},
                "out_channels": 32,
                "featmap_strides": [8, 16, 32, 64],
            },
            "bbox_head": [head, head],
        },
        "test_cfg": {"rpn": None, "rcnn": {"max_per_img": 10}},
    }


@torch.no_grad()
def test_a_detector_whose_forward_asks_for_annotations_is_calibrated_by_its_prediction():
    init_default_scope("mmdet")
    config, quantization = ConfigDict(sparse_rcnn()), {"scope": "model"}
    teacher: Any = random_weights(MODELS.build(copy.deepcopy(config))).eval()
    # the middle of the image and all of its size, as it begins its training
    teacher.rpn_head.init_proposal_bboxes.weight.data = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(10, 1)
    artifact = artifact_model(config, quantization)
    policy = keep_unreached(artifact, teacher, SIZE, policy_of(quantization)[0])
    student = build_student(artifact, teacher)
    forward = calibration_function("model", teacher)
    with calibrating(student):
        forward(student, torch.randn(2, 3, *SIZE))
    left = [row for row in coverage(student, policy).rows if row.kind == "weight" and row.bits is None]
    assert not left and len(forward(student, torch.randn(2, 3, *SIZE))) > 0


def test_thresholds_of_scores_are_those_of_before():
    model: Any = nn.Module()
    model.test_cfg = ConfigDict(score_thr=0.5, nms_pre=3)
    model.head = nn.Module()
    model.head.test_cfg = model.test_cfg  # mmdet's models share it with their heads
    with pytest.raises(KeyError), any_score(model):
        assert model.head.test_cfg.score_thr == 0.0
        raise KeyError
    assert model.test_cfg.score_thr == 0.5 and model.test_cfg.nms_pre == 3


@torch.no_grad()
def test_a_segmentor_with_queries_is_calibrated():
    init_default_scope("mmseg")
    head = {key: value for key, value in MASK_TRANSFORMER.items() if not key.startswith("num_stuff")}
    head.pop("num_things_classes")
    backbone = {**SWIN, "type": "mmdet.SwinTransformer", "out_indices": (0, 1, 2, 3)}
    decoder = {"pixel_decoder": {**head["pixel_decoder"], "type": "mmdet.MSDeformAttnPixelDecoder"}}
    config = {
        "type": "EncoderDecoder",
        "backbone": backbone,
        "decode_head": {**head, **decoder, "type": "Mask2FormerHead", "num_classes": 3, "align_corners": False},
        "test_cfg": {"mode": "whole"},
    }
    teacher: Any = random_weights(MODELS.build(ConfigDict(copy.deepcopy(config)))).eval()
    images = torch.randn(2, 3, *SIZE)
    outputs = calibration_function("model", teacher)(teacher, images)
    # class scores and masks, before the first decoder layer and after each of two
    assert [tuple(one.shape) for one in outputs] == [(2, 10, 4)] * 3 + [(2, 10, 16, 16)] * 3
    with pytest.raises(UsageError, match="Mask2FormerHead has queries instead of class scores"):
        output_function("logits", teacher)


def test_a_model_that_needs_annotations_is_one_line():
    # Fast R-CNN, which gets its proposals with the data set
    whole = {key: value for key, value in DETECTORS["mask_rcnn"].items() if key != "rpn_head"}
    with pytest.raises(UsageError, match="FastRCNN does not run as a whole on images of 64x64 without annotations"):
        pair({**whole, "type": "FastRCNN"})


@pytest.mark.parametrize("name", ONE_STAGE)
def test_logits_of_one_stage_detectors_are_their_own_forward(name):
    init_default_scope("mmdet")
    model = random_weights(MODELS.build(copy.deepcopy(ONE_STAGE[name]))).eval()
    images = torch.randn(2, 3, *SIZE, requires_grad=True)
    logits = output_function("logits", model)(model, images)
    expected = [one for kind in model(images, mode="tensor") for one in kind]
    # the same computation: equal to the bit
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    (gradient,) = torch.autograd.grad(sum(one.square().mean() for one in logits), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_queries_cannot_be_compared(name):
    init_default_scope("mmdet")
    model = MODELS.build(ConfigDict(copy.deepcopy(TRANSFORMERS[name])))
    with pytest.raises(UsageError, match="is no two-stage detector, one-stage detector"):
        output_function("logits", model)


def test_layers_that_the_recipe_keeps_float_need_no_further_override():
    init_default_scope("mmdet")
    teacher = random_weights(MODELS.build(copy.deepcopy(ONE_STAGE["tood"]))).eval()
    quantization = {"scope": "model", "overrides": [{"pattern": "bbox_head", "keep_fp": True}]}
    policy = policy_of(quantization)[0]
    artifact = artifact_model(ConfigDict(copy.deepcopy(ONE_STAGE["tood"])), quantization)
    assert keep_unreached(artifact, teacher, SIZE, policy) == policy


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_the_export_goes_up_to_the_transformer(name):
    init_default_scope("mmdet")
    model: Any = random_weights(MODELS.build(ConfigDict(copy.deepcopy(TRANSFORMERS[name]))))
    (part,) = static_parts(model)
    assert part.covers == (("backbone", "neck") if getattr(model, "neck", None) is not None else ("backbone",))
    images = torch.randn(1, 3, 64, 64)
    expected = list(model.extract_feat(images))
    assert all(torch.equal(a, b) for a, b in zip(part.graph(images), expected, strict=True))
