"""The observer 'mse', against a search in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from psaq_mm.quantization import activation_spec, affine_parameters, fake_quantize, weight_spec
from tests.quantization.observers.observing import observe


@pytest.mark.parametrize("bits", [2, 4, 8], ids="{}bit".format)
def test_mse_takes_the_best_of_the_ratios(bits: int) -> None:
    spec, weight = weight_spec(bits, "mse"), torch.randn(6, 200)
    low, high = observe(spec, weight)
    largest = weight.abs().amax(1)

    def loss(limit: Tensor) -> Tensor:
        y = fake_quantize(weight, *affine_parameters(-limit, limit, spec), spec)
        return (weight - y).double().square().sum(1)

    ratios = torch.linspace(0.4, 1, 31)
    best = torch.stack([loss(ratio * largest) for ratio in ratios]).amin(0)
    # float32 sums of 200 squares: neighbours closer than 1e-5 may be taken for each other.
    torch.testing.assert_close(loss(torch.maximum(-low, high)), best, rtol=1e-5, atol=0)


def test_mse_averages_over_batches() -> None:
    x, spec = torch.randn(300), activation_spec(4, "mse")
    one, two = observe(spec, x), observe(spec, 3 * x)
    both = observe(spec, x, 3 * x)
    torch.testing.assert_close(both, tuple((a + b) / 2 for a, b in zip(one, two, strict=True)))
