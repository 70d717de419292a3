"""GPTQ: nearer to the layer's output than rounding to the nearest, and what it leaves behind in a layer."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from psaq_mm.quantization import (
    QuantizationError,
    QuantLinear,
    activation_spec,
    calibrating,
    collect_hessians,
    gptq,
    make_rounding,
    round_weights,
    weight_spec,
)


def correlated(samples: int, width: int) -> Tensor:
    """Inputs of which a few directions carry nearly all."""
    return torch.randn(samples, 4) @ torch.randn(4, width) + 0.1 * torch.randn(samples, width)


def integers(layer: QuantLinear) -> Tensor:
    """A layer's weight on its grid."""
    ratio = layer.input_channel_scale()
    weight = layer.quantized_weight() if ratio is None else layer.quantized_weight() * ratio
    return (weight / layer.weight_quantizer.scale.view(-1, 1)).round()


def test_the_example_of_the_docstring():
    x = torch.randn(50, 1).expand(50, 2)
    q = gptq(torch.tensor([[0.4, 0.4]]), torch.ones(1), x.T @ x, 7)
    assert q.tolist() == [[0.0, 1.0]]


def test_uncorrelated_inputs_are_rounded_to_the_nearest():
    weight, scale = torch.randn(5, 9), torch.full((5,), 0.3)
    q = gptq(weight, scale, torch.diag(torch.rand(9) + 0.1), 7)
    assert torch.equal(q, (weight / 0.3).round().clamp(-7, 7))


@settings(max_examples=25, deadline=None)
@given(width=st.sampled_from([3, 40, 300]), bits=st.integers(2, 8), seed=st.integers(0, 99))
def test_integers_lie_on_the_grid_and_lose_less(width: int, bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, limit = correlated(600, width), torch.randn(8, width), 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1) / limit
    q = gptq(weight, scale, x.T @ x, limit)
    nearest = (weight / scale[:, None]).round()
    assert torch.equal(q, q.round()) and q.abs().max() <= limit

    def losses(integers: Tensor) -> Tensor:
        return ((integers * scale[:, None] - weight).double() @ x.T.double()).square().sum(1)

    # The function weighs the losses by the Hessian, which is summed in float32 here: 1e-4 is its error.
    assert (losses(q) <= losses(nearest) * (1 + 1e-4)).all()
    # Inputs as correlated as these leave room in a layer of any width but the smallest.
    assert losses(q).sum() < 0.1 * losses(nearest).sum() or width == 3


def test_a_row_that_greed_makes_worse_is_rounded_to_the_nearest() -> None:
    torch.manual_seed(51)
    x, weight = correlated(600, 3), torch.randn(8, 3)
    scale, hessian = weight.abs().amax(1), x.T @ x
    nearest = (weight / scale[:, None]).round()
    q = gptq(weight, scale, hessian, 1)
    # Some rows keep the nearest integers, some gain by others.
    changed = (q != nearest).any(1)
    assert 0 < int(changed.sum()) < len(changed)


@pytest.mark.parametrize("hessian", [torch.eye(3), torch.full((4, 4), torch.nan)], ids=["size", "nan"])
def test_invalid_hessians_are_refused(hessian: Tensor) -> None:
    with pytest.raises(QuantizationError, match="finite Hessian of 4 input channels"):
        gptq(torch.zeros(2, 4), torch.ones(2), hessian, 7)


def test_inputs_of_zeros_round_to_the_nearest() -> None:
    weight = torch.randn(2, 4)
    assert torch.equal(gptq(weight, torch.full((2,), 0.5), torch.zeros(4, 4), 7), (weight / 0.5).round().clamp(-7, 7))


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_a_layer_rounds_as_gptq_says_with_the_scale_it_had(granularity: str) -> None:
    layer = nn.Linear(24, 6).eval()
    x = correlated(400, 24)
    quantized = QuantLinear.from_module(
        copy.deepcopy(layer), weight_spec(4, "mse"), activation_spec(8, granularity=granularity)
    )
    with torch.no_grad(), calibrating(quantized):
        quantized(x)
    plain = copy.deepcopy(quantized)
    before = quantized.weight_quantizer.scale.clone()
    rounding = make_rounding("gptq")
    assert rounding.needs_inputs
    with torch.no_grad(), rounding.collect(quantized):
        quantized(x[:200])
        quantized(x[200:])
    ((_, hessian),) = rounding.hessians.items()
    rounding.apply(quantized)
    assert not rounding.hessians
    ratio = quantized.input_channel_scale()
    folded = layer.weight if ratio is None else layer.weight * ratio
    assert torch.equal(integers(quantized), gptq(folded, before, hessian, 7))
    torch.testing.assert_close(quantized.weight_quantizer.scale, before)
    assert not torch.equal(integers(quantized), integers(plain))
    exact = layer(x)
    assert (quantized(x) - exact).square().mean() < (plain(x) - exact).square().mean()
    assert not quantized._forward_pre_hooks


def test_a_rounded_layer_survives_its_checkpoint() -> None:
    quantized = QuantLinear.from_module(nn.Linear(24, 6).eval(), weight_spec(4), activation_spec(8))
    other = copy.deepcopy(quantized)
    x = correlated(100, 24)
    with torch.no_grad(), calibrating(quantized):
        quantized(x)
    with torch.no_grad(), collect_hessians(quantized) as hessians:
        quantized(x)
    round_weights(hessians)
    other.load_state_dict(quantized.state_dict())
    assert torch.equal(other(x), quantized(x))


def test_collecting_again_starts_anew() -> None:
    layer, x = QuantLinear.from_module(nn.Linear(4, 3), weight_spec(4), activation_spec(8)), torch.randn(20, 4)
    with torch.no_grad(), calibrating(layer):
        layer(x)
    rounding = make_rounding("gptq")
    with pytest.raises(RuntimeError, match="stop"), torch.no_grad(), rounding.collect(layer):
        layer(x)
        raise RuntimeError("stop")
    with torch.no_grad(), rounding.collect(layer):
        layer(x)
    with torch.no_grad(), collect_hessians(layer) as hessians:
        layer(x)
    assert torch.equal(rounding.hessians[layer], hessians[layer]) and not layer._forward_pre_hooks


def test_shrinkage_leads_to_the_nearest_integers() -> None:
    layer, x = QuantLinear.from_module(nn.Linear(24, 6).eval(), weight_spec(4), activation_spec(8)), correlated(300, 24)
    with torch.no_grad(), calibrating(layer):
        layer(x)
    with torch.no_grad(), collect_hessians(layer) as hessians:
        layer(x)
    found = {}
    for shrinkage in (0.0, 0.1, 1.0):
        one = copy.deepcopy(layer)
        round_weights({one: hessians[layer]}, shrinkage=shrinkage)
        found[shrinkage] = integers(one)
    assert torch.equal(found[1.0], integers(layer))
    changed = [int((found[one] != found[1.0]).sum()) for one in (0.0, 0.1)]
    assert changed[0] > 0 and changed[1] > 0 and not torch.equal(found[0.0], found[0.1])
