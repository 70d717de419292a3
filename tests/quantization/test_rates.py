"""Rates relative to what they move: a model is trained alike, in whatever units its weights and inputs are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from psaq_mm.quantization import QuantPolicy, calibrating, quantize_model, relative_groups
from psaq_mm.quantization.rates import RELATIVE_EPS

RATES = {"weight": 3e-3, "bias": 1e-3, "scale": 1e-2}


def layer(k: float = 1.0, bias: bool = True, **policy) -> tuple[nn.Module, torch.Tensor]:
    """``(W / k) (k x) + b``, calibrated, and its inputs."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4, bias=bias))
    net[0].weight.data = torch.randn(4, 6, generator=generator) / k
    if bias:
        net[0].bias.data = torch.randn(4, generator=generator)
    x = k * torch.randn(32, 6, generator=generator)
    quantize_model(net, QuantPolicy(**policy))
    with calibrating(net), torch.no_grad():
        net(x)
    return net, x


def test_the_example_of_the_docstring():
    net, _ = layer()
    net[0].weight.data = torch.full((4, 6), 0.02)
    net[0].input_quantizer.scale.data = torch.tensor([8 / 255])
    groups = {id(group["params"][0]): group for group in relative_groups(net, RATES)}
    of_weight, of_bias = groups[id(net[0].weight)], groups[id(net[0].bias)]
    assert of_weight["lr"] == pytest.approx(6e-5) and of_bias["lr"] == pytest.approx(1.6e-4)
    assert of_weight["eps"] == pytest.approx(RELATIVE_EPS / 0.02)
    assert groups[id(net[0].input_quantizer.scale)]["lr"] == pytest.approx(1e-2 * 8 / 255)
    assert groups[id(net[0].input_quantizer.zero_point)]["lr"] == pytest.approx(2.55)


@pytest.mark.parametrize("k", [2.0**-30, 2.0**-6, 2.0**6, 2.0**30], ids=str)
def test_a_layer_in_other_units_is_trained_alike(k):
    """A power of two changes no digit of a float; what is left is the rounding of rates in float64."""
    results = []
    for unit in (1.0, k):
        net, x = layer(unit, weight_bits=4)
        adam = torch.optim.Adam(relative_groups(net, RATES))
        target = (x / unit) @ torch.ones(6, 4)
        for _ in range(5):
            adam.zero_grad()
            (net(x) - target).abs().mean().backward()
            adam.step()
        results.append((net[0].weight.detach() * unit, net[0].bias.detach(), net[0].input_quantizer.scale / unit))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_has_no_size_is_left_out():
    net, _ = layer()
    net[0].weight.data.zero_()
    net[0].bias.data.zero_()
    moved = [id(group["params"][0]) for group in relative_groups(net, RATES)]
    assert id(net[0].weight) not in moved and id(net[0].bias) not in moved and len(moved) == 2


def test_a_bias_behind_a_float_input_has_its_own_size():
    net, _ = layer()
    net[0].input_quantizer = None
    groups = {id(group["params"][0]): group for group in relative_groups(net, RATES)}
    assert groups[id(net[0].bias)]["lr"] == pytest.approx(1e-3 * float(net[0].bias.square().mean().sqrt()), rel=1e-5)
