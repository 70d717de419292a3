"""Rounding methods by name, and what holds for each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from psaq_mm.quantization import (
    ROUNDINGS,
    GPTQRounding,
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


@pytest.mark.parametrize(
    ("described", "message"),
    [
        pytest.param("up", "rounding 'up' is unknown: use one of gptq, nearest", id="name"),
        pytest.param(3, "rounding 3 is unknown", id="number"),
        pytest.param({"damping": 0.1}, "rounding '' is unknown", id="no-type"),
        pytest.param(
            {"type": "gptq", "damp": 1}, "'gptq' has no option 'damp': it has damping, shrinkage", id="option"
        ),
        pytest.param(
            {"type": "nearest", "damping": 1}, "'nearest' has no option 'damping': it has no options", id="none"
        ),
        pytest.param({"type": "gptq", "damping": 0}, "damping 0 of gptq must be positive", id="damping"),
        pytest.param({"type": "gptq", "shrinkage": 1.5}, "shrinkage 1.5 of gptq is not a share", id="shrinkage"),
        pytest.param({"type": "gptq", "shrinkage": "0.1"}, "'gptq' cannot be made .*'str'", id="another-type"),
    ],
)
def test_what_no_method_has_is_refused(described: Any, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        make_rounding(described)


def test_options_reach_the_method() -> None:
    described = {"type": "gptq", "shrinkage": 0.3}
    rounding = make_rounding(described)
    assert isinstance(rounding, GPTQRounding) and rounding.shrinkage == 0.3 and rounding.damping == 0.01
    assert described == {"type": "gptq", "shrinkage": 0.3}


def test_a_registered_rounding_is_made_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ROUNDINGS, "_classes", dict(ROUNDINGS._classes))

    @register_rounding("floor")
    class Floor(Rounding):
        def apply(self, model: nn.Module) -> None:
            pass

    assert type(make_rounding("floor")) is Floor and not Floor.needs_inputs
