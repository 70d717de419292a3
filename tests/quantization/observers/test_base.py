"""What holds for every observer, and how observers are registered."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from psaq_mm.quantization import (
    Observer,
    QuantizationError,
    Quantizer,
    QuantSpec,
    activation_spec,
    make_observer,
    register_observer,
)
from psaq_mm.quantization.observers.base import MIN_ROW_SIZE, SAMPLE_SIZE, subsample
from psaq_mm.quantization.spec import OBSERVERS as REGISTRY
from tests.quantization.observers.observing import observe

NAMES = ["minmax", "mse", "percentile"]
OBSERVERS = pytest.mark.parametrize("name", NAMES)


def test_every_observer_is_tested() -> None:
    assert list(REGISTRY.names) == NAMES


@OBSERVERS
@pytest.mark.parametrize("axis", [0, 1, -1], ids="axis{}".format)
def test_channels_are_independent(name: str, axis: int) -> None:
    x = torch.randn(3, 4, 5)
    low, high = observe(QuantSpec(4, granularity="per_channel", axis=axis, observer=name), x)
    assert low.shape == high.shape == (x.shape[axis],)
    for channel in range(x.shape[axis]):
        alone = observe(activation_spec(4, name), x.select(axis, channel))
        assert (low[channel], high[channel]) == alone


@OBSERVERS
def test_lies_within_the_values_and_repeats(name: str) -> None:
    x, spec = torch.randn(4, 1000), activation_spec(4, name, percentile=1)
    low, high = observe(spec, x)
    assert x.min() <= low < high <= x.max()
    assert observe(spec, x) == (low, high)


@OBSERVERS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_non_finite_values_are_refused(name: str, bad: float) -> None:
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        observe(activation_spec(8, name), torch.tensor([1.0, bad, 2.0]))


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


def test_a_registered_observer_is_used_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "_classes", dict(REGISTRY._classes))

    @register_observer("first_half")
    class FirstHalf(Observer):
        def estimate(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
            return low / 2, high / 2

    quantizer = Quantizer(activation_spec(8, "first_half"))
    quantizer.observe()
    quantizer(torch.tensor([-2.0, 4.0]))
    quantizer(torch.tensor([-4.0, 8.0]))
    quantizer.calibrate()
    assert (quantizer.range_min.item(), quantizer.range_max.item()) == (-1.5, 3.0)
