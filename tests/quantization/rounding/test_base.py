"""Rounding methods by name, and what holds for each of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from psaq_mm.quantization import (
    ROUNDINGS,
    QuantizationError,
    QuantLinear,
    Rounding,
    activation_spec,
    calibrating,
    make_rounding,
    register_rounding,
    weight_spec,
)

NAMES = ["gptq", "nearest"]


def calibrated_layer() -> tuple[QuantLinear, torch.Tensor]:
    layer, x = QuantLinear.from_module(nn.Linear(8, 4).eval(), weight_spec(4), activation_spec(8)), torch.randn(50, 8)
    with torch.no_grad(), calibrating(layer):
        layer(x)
    return layer, x


def test_every_rounding_is_tested() -> None:
    assert list(ROUNDINGS.names) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_stays_and_a_second_pass_changes_no_integer(name: str) -> None:
    layer, x = calibrated_layer()
    scale = layer.weight_quantizer.scale.clone()
    for step in range(2):
        rounding = make_rounding(name)
        with torch.no_grad(), rounding.collect(layer) as model:
            assert model is layer
            model(x)
        before = layer.quantized_weight().detach()
        rounding.apply(layer)
        torch.testing.assert_close(layer.weight_quantizer.scale, scale)
        if step:
            # float32 rounding of multiples of the scale
            torch.testing.assert_close(layer.quantized_weight().detach(), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_without_inputs_is_rounded_to_the_nearest(name: str) -> None:
    layer, _ = calibrated_layer()
    weight, rounding = layer.weight.clone(), make_rounding(name)
    with rounding.collect(layer):
        pass
    rounding.apply(layer)
    assert torch.equal(layer.weight, weight)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(QuantizationError, match="rounding 'up' is unknown: use one of gptq, nearest"):
        make_rounding("up")


def test_a_registered_rounding_is_made_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ROUNDINGS, "_classes", dict(ROUNDINGS._classes))

    @register_rounding("floor")
    class Floor(Rounding):
        def apply(self, model: nn.Module) -> None:
            pass

    assert type(make_rounding("floor")) is Floor and not Floor.needs_inputs
