"""The grids that specs describe, and the values they refuse."""

from __future__ import annotations

import dataclasses

import pytest

from psaq_mm.quantization import QuantizationError, QuantSpec, activation_spec, weight_spec


@pytest.mark.parametrize(
    ("spec", "lowest", "highest"),
    [
        pytest.param(weight_spec(8), -127, 127, id="weight-8"),
        pytest.param(weight_spec(4), -7, 7, id="weight-4"),
        pytest.param(weight_spec(2), -1, 1, id="weight-2-is-ternary"),
        pytest.param(QuantSpec(8, symmetric=True), -128, 127, id="symmetric-8"),
        pytest.param(QuantSpec(2, symmetric=True), -2, 1, id="symmetric-2"),
        pytest.param(activation_spec(8), 0, 255, id="activation-8"),
        pytest.param(activation_spec(2), 0, 3, id="activation-2"),
        pytest.param(activation_spec(4, grid="log2"), -15, 0, id="log2-4"),
        pytest.param(activation_spec(4, grid="log_sqrt2"), -15, 0, id="log-sqrt2-4"),
    ],
)
def test_grid(spec: QuantSpec, lowest: int, highest: int) -> None:
    assert (spec.quant_min, spec.quant_max) == (lowest, highest)


def test_helpers() -> None:
    weight, activation = weight_spec(4, "mse", axis=1), activation_spec(6, "percentile", percentile=1.0)
    assert (weight.per_channel, weight.axis, weight.observer, weight.narrow_range) == (True, 1, "mse", True)
    assert (activation.per_channel, activation.symmetric, activation.percentile) == (False, False, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"bits": 1}, "from 2 to 8", id="bits-low"),
        pytest.param({"bits": 9}, "from 2 to 8", id="bits-high"),
        pytest.param({"bits": 4.0}, "integer", id="bits-float"),
        pytest.param({"bits": True}, "integer", id="bits-bool"),
        pytest.param({"granularity": "per_row"}, "per_channel", id="granularity"),
        pytest.param({"observer": "max"}, "minmax, mse, percentile", id="observer"),
        pytest.param({"observer": "ema"}, "'ema' was removed: use 'minmax', 'percentile' or 'mse'", id="ema"),
        pytest.param({"percentile": 51}, "0 to 50", id="percentile-high"),
        pytest.param({"percentile": -0.1}, "0 to 50", id="percentile-low"),
        pytest.param({"narrow_range": True}, "symmetric=True", id="narrow-asymmetric"),
        pytest.param({"migration": 1.5}, "0 to 1", id="migration"),
        pytest.param({"grid": "log"}, "log2", id="grid"),
        pytest.param({"grid": "log2", "symmetric": True}, "no sign", id="log2-symmetric"),
        pytest.param({"grid": "log2", "granularity": "per_channel"}, "one scale", id="log2-per-channel"),
        pytest.param({"grid": "log2", "observer": "mse"}, "with observer='mse'", id="log2-mse"),
        pytest.param({"grid": "log_sqrt2", "symmetric": True}, "'log_sqrt2' has one scale", id="log-sqrt2-symmetric"),
    ],
)
def test_invalid_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(QuantizationError, match=message) as error:
        QuantSpec(**values)
    assert "\n" not in str(error.value)


def test_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        weight_spec(8).bits = 4  # type: ignore[misc]
