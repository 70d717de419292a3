"""What teacher and student are compared on."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.errors import UsageError
from psaq_mm.models import calibration_function, output_function
from tests.conftest import random_weights


@pytest.fixture
def teacher(tiny_recipe) -> nn.Module:
    init_default_scope("mmdet")
    return random_weights(MODELS.build(copy.deepcopy(tiny_recipe.model)))


@pytest.fixture
def other(teacher) -> nn.Module:
    """Another model of the same class, whose own proposals lie elsewhere."""
    return random_weights(copy.deepcopy(teacher), seed=1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


@torch.no_grad()
def test_backbone_and_neck_are_the_models_own_maps(teacher, images):
    maps = output_function("backbone", teacher)(teacher, images)
    assert [tuple(level.shape) for level in maps] == [(2, 16, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]
    assert all(torch.equal(a, b) for a, b in zip(maps, teacher.backbone(images), strict=True))
    pyramid = output_function("neck", teacher)(teacher, images)
    assert all(torch.equal(a, b) for a, b in zip(pyramid, teacher.extract_feat(images), strict=True))


@torch.no_grad()
def test_a_single_map_becomes_a_list():
    model = nn.Module()
    model.backbone = nn.Identity()
    image = torch.randn(1, 3, 8, 8)
    assert output_function("backbone", model)(model, image) == [image]


@torch.no_grad()
def test_logits_are_objectness_then_class_scores(teacher, images):
    logits = output_function("logits", teacher)(teacher, images)
    # three anchors a place on five levels, then five classes and the background on each proposal
    assert [level.shape[1] for level in logits[:5]] == [3] * 5
    assert len(logits) == 6 and logits[5].shape[1] == 6
    assert 0 < len(logits[5]) <= 2 * 64


@torch.no_grad()
def test_both_are_asked_about_the_teachers_proposals(teacher, other, images):
    outputs = output_function("logits", teacher)
    theirs, ours = outputs(teacher, images), outputs(other, images)
    assert [level.shape for level in theirs] == [level.shape for level in ours]
    rois = outputs.rois(images)
    features = other.extract_feat(images)
    extractor = other.roi_head.bbox_roi_extractor
    expected = other.roi_head.bbox_head(extractor(features[: extractor.num_inputs], rois))[0]
    # the same computation: equal to the bit
    assert torch.equal(ours[-1], expected)
    assert not torch.allclose(ours[-1], theirs[-1])


@torch.no_grad()
def test_other_images_have_other_proposals(teacher, images):
    outputs = output_function("logits", teacher)
    first = outputs.rois(images)
    assert outputs.rois(images) is first
    assert not torch.equal(outputs.rois(torch.randn(2, 3, 64, 64))[:5], first[:5])


def test_gradients_reach_student_and_images(teacher, other, images):
    images.requires_grad_()
    for place in ("backbone", "neck", "logits"):
        other.zero_grad()
        total = sum(level.square().mean() for level in output_function(place, teacher)(other, images))
        (gradient,) = torch.autograd.grad(total, images, retain_graph=True)
        assert gradient.abs().sum() > 0, place
        total.backward()
        assert other.backbone.patch_embed.projection.weight.grad.abs().sum() > 0, place


def test_calibration_reaches_every_head_of_the_scope(teacher, images):
    seen = set()
    for name, module in teacher.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda *_, name=name: seen.add(name))
    with torch.no_grad():
        calibration_function("backbone", teacher)(teacher, images)
        assert seen and all(name.startswith("backbone.") for name in seen)
        calibration_function("model", teacher)(teacher, images)
    everything = {name for name, module in teacher.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    assert seen == everything


def test_an_unknown_place_lists_the_known(teacher):
    with pytest.raises(UsageError, match="'head': use one of backbone, neck, logits"):
        output_function("head", teacher)


@pytest.mark.parametrize(("place", "said"), [("neck", "has no neck"), ("logits", "is no two-stage detector")])
def test_places_that_a_model_lacks(place, said):
    with pytest.raises(UsageError, match=f"Sequential {said}"):
        output_function(place, nn.Sequential())
