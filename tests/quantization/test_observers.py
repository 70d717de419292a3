"""Each range estimator, against what its docstring promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from psaq_mm.quantization import (
    QuantizationError,
    QuantSpec,
    activation_spec,
    affine_parameters,
    fake_quantize,
    make_observer,
    weight_spec,
)
from psaq_mm.quantization.observers import MIN_ROW_SIZE, SAMPLE_SIZE, subsample

RANGES = pytest.mark.parametrize("estimator", ["minmax", "ema", "percentile", "mse"])


def observe(spec: QuantSpec, *batches: Tensor) -> tuple[Tensor, Tensor]:
    observer = make_observer(spec)
    for batch in batches:
        observer.update(batch)
    return observer.range()


def test_minmax_keeps_the_extremes_of_all_batches() -> None:
    low, high = observe(activation_spec(8), torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]))
    assert (low.tolist(), high.tolist()) == ([-3.0], [2.0])


def test_ema() -> None:
    spec = activation_spec(8, "ema", momentum=0.75)
    low, high = observe(spec, torch.tensor([-1.0, 2.0]), torch.tensor([-5.0, 6.0]))
    assert (low.tolist(), high.tolist()) == ([-2.0], [3.0])


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


@RANGES
@pytest.mark.parametrize("axis", [0, 1, -1], ids="axis{}".format)
def test_channels_are_independent(estimator: str, axis: int) -> None:
    x = torch.randn(3, 4, 5)
    low, high = observe(QuantSpec(4, granularity="per_channel", axis=axis, range=estimator), x)
    assert low.shape == high.shape == (x.shape[axis],)
    for channel in range(x.shape[axis]):
        alone = observe(activation_spec(4, estimator), x.select(axis, channel))
        assert (low[channel], high[channel]) == alone


@RANGES
def test_lies_within_the_values_and_repeats(estimator: str) -> None:
    x, spec = torch.randn(4, 1000), activation_spec(4, estimator, percentile=1)
    low, high = observe(spec, x)
    assert x.min() <= low < high <= x.max()
    assert observe(spec, x) == (low, high)


@RANGES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_non_finite_values_are_refused(estimator: str, bad: float) -> None:
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        observe(activation_spec(8, estimator), torch.tensor([1.0, bad, 2.0]))


def test_empty_batches_and_no_batches_are_refused() -> None:
    with pytest.raises(QuantizationError, match="empty"):
        observe(activation_spec(8), torch.empty(0, 3))
    with pytest.raises(QuantizationError, match="no data"):
        make_observer(activation_spec(8)).range()


@settings(max_examples=50, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 64, 1024]), size=st.integers(1, 3 * SAMPLE_SIZE), width=st.sampled_from([96, 384, 768])
)
def test_subsample_is_bounded_and_meets_all_channels(rows: int, size: int, width: int) -> None:
    size = -(-size // width) * width
    sample = subsample(torch.arange(size).expand(rows, size))
    keep = max(MIN_ROW_SIZE, SAMPLE_SIZE // rows)
    assert min(size, keep // 20) <= sample.shape[1] <= keep
    if sample.shape[1] >= width:
        assert torch.unique(sample[0] % width).numel() == width
