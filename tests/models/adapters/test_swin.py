"""The decomposed attention equals mmdet's while its quantizers are off, and has the right ones."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.models.backbones.swin import WindowMSA
from torch import nn

from psaq_mm.models import QuantWindowMSA, quantize_in_place
from psaq_mm.quantization import Quantizer, QuantPolicy, calibrating, coverage, quantizers
from tests.conftest import random_weights
from tests.models.conftest import DEPTH
from tests.quantization.switching import enable_quantizers

# The tolerance of the issue. Both sides are float32 and add up the same numbers in other orders.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
KEYS = (*Quantizer._per_scale, "quant_min", "quant_max", "initialized", "sqnr_db", "clip_ratio")
DEPLOY, PSAQ = QuantPolicy(), QuantPolicy(scheme="paper")


def attention(**options) -> WindowMSA:
    return random_weights(WindowMSA(24, 3, (4, 4), **options))


def quantized(module: WindowMSA, policy: QuantPolicy) -> QuantWindowMSA:
    return QuantWindowMSA.from_module(copy.deepcopy(module), "attn", policy)


def value_and_gradient(module: nn.Module, x: torch.Tensor, *more) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x, *more)
    # a projection on fixed directions: every output value weighs in
    weights = torch.linspace(-1, 1, y.numel()).view_as(y)
    return y.detach(), torch.autograd.grad((y * weights).sum(), x)[0]


@pytest.mark.parametrize("policy", [DEPLOY, PSAQ], ids=["deploy", "paper"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(
    "options", [{}, {"qkv_bias": False}, {"qk_scale": 0.3}], ids=["default", "no-qkv-bias", "own-scale"]
)
def test_attention_equals_mmdets_with_quantizers_off(options, masked, policy):
    module = attention(**options)
    student = quantized(module, policy)
    enable_quantizers(student, False)
    # two images of three windows
    mask = torch.where(torch.rand(3, 16, 16) < 0.3, -100.0, 0.0) if masked else None
    x = torch.randn(6, 16, 24)
    for ours, theirs in zip(value_and_gradient(student, x, mask), value_and_gradient(module, x, mask), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("policy", [DEPLOY, PSAQ], ids=["deploy", "paper"])
def test_attention_at_8_bits_is_near(policy):
    module = attention()
    student = quantized(module, policy)
    x = torch.randn(6, 16, 24)
    with torch.no_grad(), calibrating(student):
        student(x)
    with torch.no_grad():
        ours, theirs = student(x), module(x)
    assert not torch.equal(ours, theirs)
    # 8 bits have about 50 dB each; a dozen operands in a row stay above 30 dB, an error of 3 %
    assert (ours - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
@pytest.mark.parametrize("size", [(64, 64), (72, 88)], ids=["64", "72x88-padded"])
def test_backbone_equals_mmdets_with_quantizers_off(swin, size, scheme):
    student = quantize_in_place(copy.deepcopy(swin), {"scheme": scheme}, "backbone")
    student.eval()
    enable_quantizers(student, False)
    images = torch.randn(2, 3, *size)
    gradients = []
    for model in (swin, student):
        x = images.clone().requires_grad_()
        outputs = model(x)
        total = sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).mean() for y in outputs)
        gradients.append((outputs, torch.autograd.grad(total, x)[0]))
    for ours, theirs in zip(gradients[1][0], gradients[0][0], strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    # The means over outputs make these gradients small: compare them on their own scale.
    scale = gradients[0][1].abs().max()
    torch.testing.assert_close(gradients[1][1] / scale, gradients[0][1] / scale, **CLOSE)


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
def test_keys_are_the_floats_and_the_quantizers(swin, scheme):
    student = quantize_in_place(copy.deepcopy(swin), {"scheme": scheme}, "backbone")
    own = {f"{name}.{key}" for name, _ in quantizers(student) for key in KEYS}
    assert student.state_dict().keys() - own == swin.state_dict().keys()
    for key, value in swin.state_dict().items():
        assert torch.equal(student.state_dict()[key], value), key


def present(module: nn.Module) -> set[str]:
    return {name for name, _ in quantizers(module)}


LAYERS = {f"{layer}.{role}_quantizer" for layer in ("qkv", "proj") for role in ("input", "weight")}
OPERANDS = {f"{product}.{side}_quantizer" for product in ("qk", "av") for side in ("left", "right")}
SUMS = {"qkv.output_quantizer", "qk.output_quantizer", "proj.output_quantizer"}


def test_deploy_quantizes_what_integer_engines_multiply():
    student = quantized(attention(), DEPLOY)
    assert present(student) == LAYERS | OPERANDS
    assert set(student.fp_notes) == {"softmax", "relative_position_bias_table"}


def test_psaq_quantizes_what_v1_does():
    student = quantized(attention(), PSAQ)
    # attn @ v's result is proj's input
    assert present(student) == LAYERS | SUMS | {"relative_position_bias_table_quantizer"}
    assert student.av.left_quantizer is None
    assert "softmax output FP" in student.av.fp_notes["left"]
    assert {student.qk.fp_notes["left"], student.av.fp_notes["right"]} == {"quantized as qkv's output"}


def test_psaq_quantizes_the_image_embedding_and_notes_the_sums(swin):
    student = quantize_in_place(swin, {"scheme": "paper"}, "backbone")
    assert "patch_embed.projection.output_quantizer" in present(student)
    report = coverage(student, PSAQ, "backbone")
    sums = [row for row in report.rows if row.name.endswith("residual_sums")]
    assert len(sums) == DEPTH and all(row.bits is None and "inline" in row.reason for row in sums)


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
def test_coverage_misses_nothing(swin, scheme):
    policy = QuantPolicy(scheme=scheme)
    parameters = {f"backbone.{name}" for name, _ in swin.named_parameters()}
    matrices = {name for name, module in swin.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    attentions = [name for name, module in swin.named_modules() if isinstance(module, WindowMSA)]
    student = quantize_in_place(swin, {"scheme": scheme}, "backbone")
    rows = coverage(student, policy, "backbone").rows
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    assert parameters <= set(names)
    assert {f"backbone.{name}.input" for name in matrices} <= set(names)
    products = {
        f"backbone.{name}.{product}.{side}"
        for name in attentions
        for product in ("qk", "av")
        for side in ("left", "right")
    }
    assert products <= set(names)
    assert all(row.reason for row in rows if row.bits is None)
    assert sum(row.bits is not None for row in rows) == len(present(student))
    assert all(row.bits == 8 for row in rows if row.kind == "weight")


@pytest.mark.parametrize("pattern", ["attn.qk", "attn.av", "attn.qkv", "attn.proj"])
def test_each_part_can_stay_float(pattern):
    student = quantized(attention(), QuantPolicy(overrides=[{"pattern": pattern, "keep_fp": True}]))
    part = pattern.removeprefix("attn.")
    assert present(student) == {name for name in LAYERS | OPERANDS if not name.startswith(f"{part}.")}
