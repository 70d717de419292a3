"""Norms of OpenMMLab's modules are folded where scope ``model`` quantizes the convolutions before them."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.engine.builder import build_student
from psaq_mm.models import artifact_model, calibration_function, quantize_in_place
from psaq_mm.models.checkpoint import load_weights
from psaq_mm.quantization import QuantConv2d, calibrating, quantize_model
from psaq_mm.quantization.policy import QuantPolicy
from tests.quantization.switching import enable_quantizers
from tests.quantization.test_fold import with_statistics

NORM = {"type": "BN"}
MODULES = {
    "plain": lambda: ConvModule(3, 4, 3, norm_cfg=NORM),
    "sync": lambda: ConvModule(3, 4, 3, norm_cfg={"type": "SyncBN"}),
    "no-activation": lambda: ConvModule(3, 4, 3, norm_cfg=NORM, act_cfg=None),
    "reflected": lambda: ConvModule(3, 4, 3, padding=1, padding_mode="reflect", norm_cfg=NORM),
    "activation-first": lambda: ConvModule(3, 4, 3, norm_cfg=NORM, order=("act", "conv", "norm")),
    "efficient": lambda: ConvModule(3, 4, 3, norm_cfg=NORM, efficient_conv_bn_eval=True),
    "separable": lambda: DepthwiseSeparableConvModule(3, 4, 3, norm_cfg=NORM),
}


def norms(model: nn.Module) -> list[str]:
    return [name for name, one in model.named_modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_conv_modules(name):
    model, x = with_statistics(MODULES[name]()), torch.randn(2, 3, 8, 8)
    teacher = copy.deepcopy(model)
    quantize_in_place(model, {"scope": "model"})
    assert not norms(model)
    enable_quantizers(model, False)
    # float32 rounds the folded weights once more
    torch.testing.assert_close(model(x), teacher(x), atol=1e-5, rtol=1e-4)
    other = with_statistics(MODULES[name]())
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(x), other(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "module",
    [
        ConvModule(3, 3, 1, norm_cfg=NORM, order=("norm", "conv", "act")),
        ConvModule(3, 3, 1, norm_cfg=NORM, order=("conv", "act", "norm")),
        ConvModule(4, 4, 1, norm_cfg={"type": "GN", "num_groups": 2}),
    ],
    ids=["norm-first", "activation-between", "group-norm"],
)
def test_conv_modules_that_are_left_alone(module):
    module = copy.deepcopy(module)
    before = [type(one) for one in module.children() if not isinstance(one, nn.Conv2d)]
    quantize_in_place(module, {"scope": "model"})
    assert [type(one) for one in module.children() if not isinstance(one, nn.Conv2d)] == before


def test_a_convolution_that_stays_float_keeps_its_norm():
    model = nn.Sequential(ConvModule(3, 4, 1, norm_cfg=NORM), ConvModule(4, 4, 1, norm_cfg=NORM))
    quantize_in_place(model, {"overrides": [{"pattern": "1.conv", "keep_fp": True}]})
    assert norms(model) == ["1.bn"]


SWIN = {"type": "SwinTransformer", "embed_dims": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}


def upernet(norm: str) -> ConfigDict:
    head = {"channels": 8, "num_classes": 3, "norm_cfg": {"type": norm, "requires_grad": True}}
    widths, levels = [16, 32, 64, 128], [0, 1, 2, 3]
    return ConfigDict(
        type="EncoderDecoder",
        backbone=SWIN,
        decode_head={"type": "UPerHead", "in_channels": widths, "in_index": levels, **head},
        auxiliary_head={"type": "FCNHead", "in_channels": 64, "in_index": 2, "num_convs": 1, **head},
        test_cfg={"mode": "whole"},
    )


@pytest.fixture(params=["BN", "SyncBN"])
def described(request) -> ConfigDict:
    init_default_scope("mmseg")
    return upernet(request.param)


@torch.no_grad()
def test_a_student_takes_the_teachers_norms(described):
    teacher, images = with_statistics(MODELS.build(copy.deepcopy(described))), torch.randn(2, 3, 64, 64)
    student = build_student(artifact_model(described, {"scope": "model"}), teacher)
    assert not norms(student) and len(norms(teacher)) == 14
    enable_quantizers(student, False)
    forward = calibration_function("model", teacher)
    for ours, theirs in zip(forward(student, images), forward(teacher, images), strict=True):
        # float32 sums of up to 4608 products in another order
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_state_of_an_older_artifact_loads_completely(described):
    """As scope ``model`` wrote it before norms were folded."""
    teacher, images = with_statistics(MODELS.build(copy.deepcopy(described))), torch.randn(2, 3, 64, 64)
    old = quantize_model(copy.deepcopy(teacher), QuantPolicy())
    forward = calibration_function("model", teacher)
    with calibrating(old):
        forward(old, images)
        old.auxiliary_head(old.extract_feat(images))  # earlier versions calibrated it too
    new = MODELS.build(artifact_model(described, {"scope": "model"})).eval()
    load_weights(new, old.state_dict(), "old.pth")
    again = MODELS.build(artifact_model(described, {"scope": "model"})).eval()
    load_weights(again, new.state_dict(), "new.pth")
    assert all(isinstance(one.conv, QuantConv2d) for one in new.modules() if isinstance(one, ConvModule))
    for ours, theirs, loaded in zip(*(forward(one, images) for one in (new, old, again)), strict=True):
        # Integers are the same, except where a value lies at half a step; these are some of many.
        assert (ours - theirs).square().mean() < 1e-3 * theirs.square().mean()
        assert torch.equal(ours, loaded)
