"""Every form of attention: its quantized sibling equals it while quantizers are off, its tap yields ``attn @ v``."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from timm.models.vision_transformer import Attention
from torch import nn
from torch.nn import functional as F

from psaq_mm.models import AttentionTaps, DecomposedAttention, quantize_in_place
from psaq_mm.quantization import (
    QuantLinear,
    QuantMatMul,
    QuantPolicy,
    calibrating,
    convert_child,
    coverage,
    equalizing,
    quantizers,
)
from tests.conftest import random_weights
from tests.models.adapters.forms import OTHER_FORMS, SELF_FORMS, WINDOW_FORMS, Form, parametrize
from tests.quantization.switching import enable_quantizers

# The tolerance of the issue. Both sides are float32 and add up the same numbers in other orders.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SCHEMES = pytest.mark.parametrize("scheme", ["deploy", "paper"])


def value_and_gradient(module: nn.Module, form: Form) -> tuple[torch.Tensor, torch.Tensor]:
    x = form.input().requires_grad_()
    y = module(x, **form.kwargs)
    # a projection on fixed directions: every output value weighs in
    weights = torch.linspace(-1, 1, y.numel()).view_as(y)
    return y.detach(), torch.autograd.grad((y * weights).sum(), x)[0]


def quantized(module: nn.Module, scheme: str, **options) -> nn.Module:
    return convert_child(copy.deepcopy(module), "attn", QuantPolicy(scheme=scheme, **options))


@SCHEMES
@parametrize(WINDOW_FORMS, SELF_FORMS, OTHER_FORMS)
def test_quantized_equals_float_with_quantizers_off(form, scheme):
    module = form.module()
    student = quantized(module, scheme)
    assert any(isinstance(part, DecomposedAttention) for part in student.modules())
    enable_quantizers(student, False)
    for ours, theirs in zip(value_and_gradient(student, form), value_and_gradient(module, form), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@parametrize(WINDOW_FORMS, SELF_FORMS, OTHER_FORMS)
def test_softmax_by_rows_is_the_same_function_and_fills_its_range(form):
    module = form.module()
    student = quantized(module, "deploy", softmax_granularity="per_row")
    enable_quantizers(student, False)
    for ours, theirs in zip(value_and_gradient(student, form), value_and_gradient(module, form), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    enable_quantizers(student, True)
    with torch.no_grad(), calibrating(student):
        student(form.input(), **form.kwargs)
    for name, quantizer in quantizers(student):
        if name.endswith("av.left_quantizer"):
            assert quantizer.range_max == 1 and quantizer.range_min >= 0


@parametrize(WINDOW_FORMS, SELF_FORMS, OTHER_FORMS)
def test_equalized_queries_and_keys_give_the_same_function_and_have_equal_ranges(form):
    module = form.module()
    student = quantized(module, "deploy", qk_migration=0.5)
    for context in (equalizing, calibrating):
        with torch.no_grad(), context(student):
            student(form.input(), **form.kwargs)
    products = [one for one in student.modules() if isinstance(one, QuantMatMul) and one.migration]
    assert products and all(one.ratio.numel() > 1 for one in products)
    enable_quantizers(student, False)
    for ours, theirs in zip(value_and_gradient(student, form), value_and_gradient(module, form), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@parametrize(WINDOW_FORMS, SELF_FORMS, OTHER_FORMS)
def test_rotated_and_centered_operands_give_the_same_function(form):
    module = form.module()
    student = quantized(module, "deploy", rotation="hadamard", norm_inputs="per_channel")
    for context in (equalizing, calibrating):
        with torch.no_grad(), context(student):
            student(form.input(), **form.kwargs)
    centers = [one.center for one in student.modules() if isinstance(one, QuantMatMul) and one.centered]
    assert centers and all(one.numel() > 1 and bool(one.any()) for one in centers)
    enable_quantizers(student, False)
    for ours, theirs in zip(value_and_gradient(student, form), value_and_gradient(module, form), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_softmax_by_rows_is_finer_where_some_rows_look_everywhere():
    torch.manual_seed(0)
    module = quantize_in_place(Attention(32, num_heads=2).eval(), {"activation_bits": 6})
    rows = copy.deepcopy(module)
    rows.softmax_rows = True
    scores = torch.randn(1, 2, 64, 64)
    scores[:, :, 0] *= 20  # one row looks at one place
    v = torch.randn(1, 2, 64, 16)
    exact = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    errors = []
    for one in (module, rows):
        one.qk = nn.Module()
        one.qk.forward = lambda q, k: scores
        with torch.no_grad(), calibrating(one.av):
            one.attend(v, v, v)
        with torch.no_grad():
            errors.append((one.attend(v, v, v) - exact).square().mean())
    # per tensor, most of the even rows' weights are below half a step
    assert errors[1] < 0.1 * errors[0]


@SCHEMES
@parametrize(WINDOW_FORMS, SELF_FORMS, OTHER_FORMS)
def test_quantized_calibrates_saves_under_the_floats_keys_and_leaves_nothing_out(form, scheme):
    module = form.module()
    student = quantized(module, scheme)
    with torch.no_grad(), calibrating(student):
        student(form.input(), **form.kwargs)
    with torch.no_grad():
        ours, theirs = student(form.input(), **form.kwargs), module(form.input(), **form.kwargs)
    # 8 bits have about 50 dB each; a dozen operands in a row stay above 25 dB, an error of 5 %
    assert 0 < (ours - theirs).norm() < 0.05 * theirs.norm()
    own = {key for key in student.state_dict() if "_quantizer." in key}
    assert student.state_dict().keys() - own == module.state_dict().keys()
    again = quantized(form.module(), scheme)
    again.load_state_dict(student.state_dict())
    with torch.no_grad():
        assert torch.equal(again(form.input(), **form.kwargs), ours)
    # SwinV2's position bias is a constant, computed in FP
    layers = [part for name, part in student.named_modules() if isinstance(part, nn.Linear) and "cpb_mlp" not in name]
    assert layers and all(isinstance(layer, QuantLinear) for layer in layers)
    rows = coverage(student, QuantPolicy(scheme=scheme), "attn").rows
    assert {f"attn.{name}" for name, _ in student.named_parameters() if "quantizer." not in name} <= {
        row.name for row in rows
    }
    assert all(row.reason for row in rows if row.bits is None)
    assert sum(row.bits is not None for row in rows) == len(list(quantizers(student)))
    # two operands of two products; psaq quantizes the first product's result instead
    products = [row for row in rows if row.kind == "product"]
    assert len(products) == 4 + (scheme == "paper") and (scheme == "paper" or all(row.bits == 8 for row in products))


def attention_by_hand(module: nn.Module, x: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
    """``attn @ v``, averaged over heads: ``(b, n, d)``."""
    if hasattr(module, "qkv"):
        qkv = module.qkv(x)
        if getattr(module, "q_bias", None) is not None:
            qkv = qkv + torch.cat((module.q_bias, torch.zeros_like(module.q_bias), module.v_bias))
    else:
        x = x if module.batch_first else x.transpose(0, 1)
        qkv = F.linear(x, module.attn.in_proj_weight, module.attn.in_proj_bias)
    q, k, v = (part.unflatten(2, (module.num_heads, -1)).transpose(1, 2).contiguous() for part in qkv.chunk(3, dim=-1))
    if hasattr(module, "q_norm"):
        q, k = module.q_norm(q), module.k_norm(k)
    scale = q.shape[-1] ** -0.5
    if hasattr(module, "logit_scale"):
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scale = module.logit_scale.clamp(max=math.log(100)).exp()
    # a qk_scale of one's own: mmpretrain then divides by the root
    if hasattr(getattr(module, "scaled_dot_product_attention", None), "keywords"):
        scale = 1 / scale
    return ((q @ k.transpose(-2, -1) * scale + bias).softmax(-1) @ v).mean(1)


@parametrize(WINDOW_FORMS, SELF_FORMS)
def test_taps_yield_attention_times_value_and_change_nothing(form):
    module = form.module()
    calls = []
    inner = module.get_submodule(form.inner)
    inner.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args[0], kwargs)), with_kwargs=True)
    before = module(form.input(), **form.kwargs)
    x = form.input().requires_grad_()
    with AttentionTaps(nn.ModuleList([module])) as taps:
        during = module(x, **form.kwargs)
        (layer,) = taps.take()
    after = module(form.input(), **form.kwargs)
    torch.testing.assert_close(during, before, **CLOSE)
    assert torch.equal(after, before)
    # Taps that read hooks change no bit; torch's attention is computed step by step while tapped.
    assert hasattr(inner, "attn") or torch.equal(during, before)
    seen, kwargs = calls[1]
    expected = attention_by_hand(inner, seen, form.bias(inner, kwargs))
    assert layer.tokens.shape[0] == 2 and not layer.has_class_token
    torch.testing.assert_close(layer.tokens.flatten(0, 1), expected, **CLOSE)
    (gradient,) = torch.autograd.grad(layer.tokens.square().sum(), x)
    assert bool((gradient != 0).any(-1).all())


@parametrize(WINDOW_FORMS)
def test_regions_are_the_pairs_that_padding_and_masks_leave(form):
    module = form.module()
    if hasattr(module, "norm1"):
        module.norm1 = nn.Identity()
    calls = []
    inner = module.get_submodule(form.inner)
    inner.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args[0], kwargs["mask"])), with_kwargs=True)
    with AttentionTaps(nn.ModuleList([module])) as taps:
        # ones, and zeros where the library pads
        module(torch.ones(1, *form.shape[1:]), **form.kwargs)
        (layer,) = taps.take()
    tokens, mask = calls[0]
    real = tokens[..., 0] == 1
    pairs = real[:, :, None] & real[:, None, :]
    if mask is not None:
        pairs = pairs & (mask == 0)
    regions = torch.zeros(layer.tokens.shape[1:3]) if layer.regions is None else layer.regions
    ours = (regions[:, :, None] == regions[:, None, :]) & (regions != -1)[:, :, None]
    assert torch.equal(ours, pairs)


def test_mmengine_saves_and_loads_torchs_packed_projection():
    module = SELF_FORMS["mmcv-vit"].module()
    student = quantized(module, "deploy")
    saved = get_state_dict(student)
    assert {key for key in saved if "_quantizer." not in key} == module.state_dict().keys()
    for weights in (module.state_dict(), saved):
        other = random_weights(quantized(module, "deploy"), seed=3)
        # non-strict, as its load_checkpoint does; mmengine passes one dict through all modules
        load_state_dict(other, weights, strict=False)
        assert torch.equal(other.attn.in_proj.weight, module.attn.in_proj_weight)
        assert torch.equal(other.attn.in_proj.bias, module.attn.in_proj_bias)


def test_torchs_attention_gets_its_forward_back():
    module = SELF_FORMS["mmcv-vit"].module()
    with pytest.raises(KeyError), AttentionTaps(nn.ModuleList([module])):
        assert "forward" in module.__dict__
        raise KeyError
    assert "forward" not in module.__dict__


@pytest.mark.parametrize("options", [{"kdim": 8, "vdim": 8}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_torch_attention_with_parts_of_its_own_stays_float_and_says_so(options):
    form = Form(lambda: type(SELF_FORMS["mmcv-vit"].module())(24, 3, batch_first=True, **options), ())
    module = form.module()
    student = quantized(module, "deploy")
    assert type(student) is type(module) and not list(quantizers(student))
    rows = coverage(student, QuantPolicy(), "attn").rows
    assert rows and all("functionally" in row.reason or "stay FP" in row.reason for row in rows)
    with AttentionTaps(nn.ModuleList([module])):
        assert "forward" not in module.__dict__
