"""Quantization in any units: weights W / k on inputs k x lose as much as W on x, for every k that float32 holds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from psaq_mm.quantization import (
    QuantPolicy,
    activation_spec,
    affine_parameters,
    calibrating,
    collect_hessians,
    fake_quantize,
    quantize_model,
    recording_sqnr,
    round_weights,
    sqnr,
)

# Largest weight 0.5 and input 4: k within these keeps both, and the scales, among float32's normal numbers.
EXPONENTS = st.integers(-112, 112)
POLICIES = {
    "minmax": {},
    "mse": {"weight_observer": "mse", "activation_observer": "mse"},
    "percentile": {"activation_observer": "percentile"},
    "w4a4": {"weight_bits": 4, "activation_bits": 4},
}


def loss_of(k: float, gptq: bool = False, **policy) -> tuple[float, float, float]:
    """SQNR of the output against the float layer's, of the weight and of the input, in dB."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 32, generator=generator) * 0.15
    x = torch.randn(64, 32, generator=generator)
    net = nn.Sequential(nn.Linear(32, 16, bias=False))
    net[0].weight.data = weight / k
    quantize_model(net, QuantPolicy(**policy))
    with torch.no_grad():
        with calibrating(net):
            net(k * x)
        if gptq:
            with collect_hessians(net) as hessians:
                net(k * x)
            round_weights(hessians)
        with recording_sqnr(net):
            y = net(k * x)
    layer = net[0]
    return sqnr(x @ weight.T, y), layer.weight_quantizer.sqnr, layer.input_quantizer.sqnr


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@settings(max_examples=30, deadline=None)
@given(exponent=EXPONENTS)
@example(-112)
@example(112)
def test_no_unit_costs_a_decibel(policy: dict, exponent: int) -> None:
    """Powers of two keep every digit but those of the sum of 32 products."""
    for ours, theirs in zip(loss_of(2.0**exponent, **policy), loss_of(1.0, **policy), strict=True):
        assert ours == pytest.approx(theirs, abs=0.05)


@pytest.mark.parametrize("k", [1e-30, 1e-6, 1e6, 1e12, 1e30], ids=str)
@pytest.mark.parametrize("gptq", [False, True], ids=["nearest", "gptq"])
def test_other_units_round_otherwise_but_lose_the_same(k: float, gptq: bool) -> None:
    """Digits differ, so values at ties go elsewhere: of 512 weights, that moves 10 log10 by less than 0.3 dB."""
    assert loss_of(k, gptq)[0] == pytest.approx(loss_of(1.0, gptq)[0], abs=0.3)


@pytest.mark.parametrize("k", [1e-30, 1e30], ids=str)
def test_a_learned_range_follows_its_unit(k: float) -> None:
    spec = activation_spec(8)
    x = torch.linspace(-1, 3, 50)
    low, high = torch.tensor([-k]), torch.tensor([3 * k])
    scale, zero_point = affine_parameters(low, high, spec)
    scale.requires_grad_()
    y = fake_quantize(x * k, scale, zero_point, spec)
    assert sqnr(x, y.detach() / k) > 45
    (y / k).sum().backward()
    assert torch.isfinite(scale.grad).all() and bool(scale.grad.any())


def test_a_range_as_wide_as_float32_is_finite() -> None:
    scale, zero_point = affine_parameters(torch.tensor([-3e38]), torch.tensor([3e38]), activation_spec(8))
    # 6e38 / 255; the zero point rounds half a step
    assert float(scale) == pytest.approx(2.353e36, rel=1e-3) and float(zero_point) in (127.0, 128.0)


def test_a_channel_that_is_always_zero_has_the_smallest_scale_of_the_others() -> None:
    spec = activation_spec(8, granularity="per_channel")
    scale, _ = affine_parameters(torch.zeros(3), torch.tensor([0.0, 2.55, 255.0]), spec)
    torch.testing.assert_close(scale, torch.tensor([0.01, 0.01, 1.0]))
