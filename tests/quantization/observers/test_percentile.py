"""The observer 'percentile', against the formula of its docstring."""

from __future__ import annotations

import pytest
import torch

from psaq_mm.quantization import activation_spec
from tests.quantization.observers.observing import observe


def test_percentile_cuts_and_averages() -> None:
    values = torch.arange(1000.0)[torch.randperm(1000)]
    low, high = observe(activation_spec(8, "percentile", percentile=0.5), values, values + 10)
    assert (low.tolist(), high.tolist()) == ([9.0], [1000.0])  # means of 4, 14 and of 995, 1005


@pytest.mark.parametrize("count", [1, 4, 5], ids="n={}".format)
def test_percentile_of_half_is_around_the_median(count: int) -> None:
    low, high = observe(activation_spec(8, "percentile", percentile=50), torch.arange(float(count)))
    assert low <= high
    assert (low + high).item() / 2 == (count - 1) / 2


def test_percentile_zero_is_minmax() -> None:
    x = torch.randn(500)
    assert observe(activation_spec(8, "percentile", percentile=0), x) == observe(activation_spec(8), x)
