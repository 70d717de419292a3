"""The quantizer of weights: its scale follows the weight, and a ratio clips it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from psaq_mm.quantization import QuantizationError, WeightQuantizer, activation_spec, weight_spec


def calibrated_weight(weight: Tensor, bits: int = 4, observer: str = "minmax") -> WeightQuantizer:
    quantizer = WeightQuantizer(weight_spec(bits, observer), "w")
    quantizer.calibrate_from(weight)
    return quantizer


@pytest.mark.parametrize("bits", range(2, 9), ids="{}bit".format)
def test_minmax_equals_torch_exactly(bits: int) -> None:
    weight = torch.randn(5, 7)
    highest = 2 ** (bits - 1) - 1
    zero = torch.zeros(5, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(
        weight, weight.abs().amax(1) / highest, zero, 0, -highest, highest
    )
    quantizer = calibrated_weight(weight, bits)
    assert torch.equal(quantizer(weight), expected)
    assert quantizer.clip_ratio.tolist() == [1] * 5


def test_is_uncalibrated_at_first() -> None:
    quantizer = WeightQuantizer(weight_spec(8), "fc1.weight")
    with pytest.raises(QuantizationError, match="'fc1.weight' is uncalibrated"):
        quantizer(torch.ones(2, 2))
    with pytest.raises(QuantizationError, match="calibrate_from"):
        quantizer.observe()


def test_scale_follows_the_weight_until_frozen() -> None:
    weight = torch.randn(3, 8)
    quantizer = calibrated_weight(weight)
    scale = quantizer.scale.clone()
    quantizer(2 * weight)
    assert torch.equal(quantizer.scale, 2 * scale)
    quantizer.freeze()
    quantizer(weight)
    assert torch.equal(quantizer.scale, 2 * scale)
    assert not quantizer.scale.requires_grad


def test_gradient_is_zero_where_the_ratio_clips() -> None:
    weight = torch.randn(8, 100, requires_grad=True)
    quantizer = calibrated_weight(weight, 3, "mse")
    assert (quantizer.clip_ratio < 1).all() and (quantizer.clip_ratio >= 0.4).all()
    quantizer(weight).sum().backward()
    clipped = (weight / quantizer.scale[:, None]).round().abs() > 3
    assert clipped.any()
    assert torch.equal(weight.grad, (~clipped).float())


def test_percentile_clips_each_channel() -> None:
    weight = torch.linspace(-1, 1, 101).repeat(2, 1) * torch.tensor([[1.0], [5.0]])
    quantizer = WeightQuantizer(weight_spec(8, "percentile", percentile=10))
    quantizer.calibrate_from(weight)
    torch.testing.assert_close(quantizer.clip_ratio, torch.tensor([0.8, 0.8]))


def test_zero_channels() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    assert torch.equal(calibrated_weight(weight, 8, "mse")(weight), weight)


def test_asymmetric_specs_are_refused() -> None:
    with pytest.raises(QuantizationError, match="symmetric"):
        WeightQuantizer(activation_spec(8))
