"""The boxes on which the heads of two-stage detectors are calibrated."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.models import calibration_function
from tests.conftest import random_weights

STDS = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]


def cascade(model):
    """The recipe's Mask R-CNN with three stages of its box and mask head."""
    model = copy.deepcopy(model)
    heads = model.roi_head
    model.type, heads.type, heads.num_stages, heads.stage_loss_weights = (
        "CascadeRCNN",
        "CascadeRoIHead",
        3,
        [1, 0.5, 0.25],
    )
    model.train_cfg = None
    box = heads.bbox_head
    heads.bbox_head = [
        {
            **copy.deepcopy(box),
            "reg_class_agnostic": True,
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds},
        }
        for stds in STDS
    ]
    return model


@pytest.fixture(params=["mask-rcnn", "cascade"])
def teacher(request, tiny_recipe) -> nn.Module:
    init_default_scope("mmdet")
    model = copy.deepcopy(tiny_recipe.model)
    return random_weights(MODELS.build(cascade(model) if request.param == "cascade" else model)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


def predicted(model, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The boxes that each box head gets while the detector predicts from 64 proposals."""
    seen = []
    heads = model.roi_head
    extractors = (
        heads.bbox_roi_extractor if isinstance(heads.bbox_roi_extractor, nn.ModuleList) else [heads.bbox_roi_extractor]
    )
    handles = [one.register_forward_pre_hook(lambda _, args: seen.append(args[1])) for one in extractors]
    meta = {"img_shape": (64, 64), "ori_shape": (64, 64), "scale_factor": (1.0, 1.0)}
    features = model.extract_feat(images)
    found = model.rpn_head.predict_by_feat(*model.rpn_head(features), batch_img_metas=[meta] * 2)
    heads.predict_bbox(features, [meta] * 2, [one[:64] for one in found], heads.test_cfg)
    for one in handles:
        one.remove()
    return seen


@torch.no_grad()
def test_each_stage_gets_the_teachers_refined_boxes(teacher, images):
    outputs = calibration_function("model", teacher)
    boxes, expected = outputs.boxes(images), predicted(teacher, images)
    assert len(boxes.stages) == len(expected) == getattr(teacher.roi_head, "num_stages", 1)
    assert all(torch.equal(a, b) for a, b in zip(boxes.stages, expected, strict=True))
    if len(expected) > 1:
        assert not torch.equal(boxes.stages[0], boxes.stages[1])
    assert set(boxes.masks[:, 0].int().tolist()) == {0, 1} and len(boxes.masks) <= 2 * 16
    assert outputs.boxes(images) is boxes


@torch.no_grad()
def test_a_student_runs_on_the_teachers_boxes(teacher, images):
    student = random_weights(copy.deepcopy(teacher), seed=1)
    outputs = calibration_function("model", teacher)
    theirs, seen, called = outputs(teacher, images), [], set()
    for name, module in student.named_modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    extractors = student.roi_head.bbox_roi_extractor
    for one in extractors if isinstance(extractors, nn.ModuleList) else [extractors]:
        one.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    ours = outputs(student, images)
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    boxes = outputs.boxes(images)
    assert all(any(torch.equal(rois, one) for one in seen) for rois in boxes.stages)
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    assert called == {name for name, module in student.named_modules() if isinstance(module, layers)}


@torch.no_grad()
def test_few_confident_boxes_are_said_once(teacher, images, monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger, "log", lambda self, level, text, *args, **kwargs: said.append(text))
    for head in (
        teacher.roi_head.bbox_head
        if isinstance(teacher.roi_head.bbox_head, nn.ModuleList)
        else [teacher.roi_head.bbox_head]
    ):
        head.fc_cls.weight.zero_()
        head.fc_cls.bias.copy_(torch.tensor([0.0] * 5 + [20.0]))  # background, with certainty
    for _ in range(2):
        outputs = calibration_function("model", teacher)
        assert len(outputs.boxes(images).masks) > 0
        outputs(teacher, torch.randn(2, 3, 64, 64))
    (text,) = said
    assert text == (
        "the float detector finds 0.0 confident boxes (score above 0.05) per generated image: "
        "the mask head is calibrated on the 16 best boxes whatever their scores"
    )
