"""Histograms of quantizers against torch's, and against the quantizers themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from psaq_mm.quantization import (
    Quantizer,
    QuantLinear,
    QuantSpec,
    WeightQuantizer,
    activation_spec,
    calibrating,
    freeze,
    quantizers,
    recording_sqnr,
    weight_spec,
)
from psaq_mm.report.histograms import BINS, Tally, collect, grid_of, lowest
from tests.report.conftest import SPECS, values


def calibrated(spec: QuantSpec, x: torch.Tensor) -> Quantizer:
    if spec.symmetric:
        made = WeightQuantizer(spec, "weight_quantizer")
        made.calibrate_from(x)
        return made
    made = Quantizer(spec, "input_quantizer")
    made.observe()
    made(x)
    made.calibrate()
    return made


def test_counts_are_those_of_histc():
    x = values()
    quantizer = calibrated(activation_spec(8, "percentile", percentile=2.0), x)
    tally = Tally(quantizer)
    for part in x.split(1000):
        tally.add(part)
    found = tally.histogram("x")
    assert found.counts == tuple(torch.histc(x, BINS, found.start, found.stop).long().tolist())
    assert found.total == len(x)
    assert (found.minimum, found.maximum) == (float(x.min()), float(x.max()))
    assert found.below == int((x < found.start).sum()) and found.above == int((x > found.stop).sum())


@pytest.mark.parametrize("name", SPECS)
def test_the_ends_of_the_grid_are_what_the_quantizer_gives_for_large_values(name):
    spec = SPECS[name]
    x = values().abs().view(-1, 8) if name == "log2" else values().view(-1, 8)
    quantizer = calibrated(spec, x)
    tally = Tally(quantizer)
    huge = torch.full((1, 8), 1e6) if spec.axis == -1 else torch.full((len(x), 1), 1e6)
    for sign, end in ((-1, tally.low), (1, tally.high)):
        if name == "log2" and sign < 0:
            assert tally.low == 0
            continue
        result = tally.in_unit(quantizer(sign * huge).detach())
        # in_unit divides by the scale again: one rounding in float32 of numbers up to 255
        torch.testing.assert_close(result, torch.full_like(result, end), rtol=1e-5, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(1e-3, 10.0),
    shift=st.floats(-5.0, 5.0),
    bits=st.integers(2, 8),
    seed=st.integers(0, 99),
)
def test_every_value_is_counted_once_and_clipped_ones_are_far_from_the_grid(scale, shift, bits, seed):
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * scale + shift
    quantizer = calibrated(activation_spec(bits, "percentile", percentile=3.0), x)
    tally = Tally(quantizer)
    tally.add(x)
    found = tally.histogram("x")
    assert found.total == len(x)
    low, high, step = grid_of(quantizer)
    far = (x - quantizer(x).detach()).abs()
    # half a step is the largest error of rounding; float32 moves it by the last bits
    assert found.clipped >= int((far > step / 2 * 1.001 + 1e-5 * max(abs(low), abs(high))).sum())
    assert found.clipped <= int((far > step / 2 * 0.999 - 1e-5 * max(abs(low), abs(high))).sum())


def test_channels_are_counted_in_steps_of_their_own_scale():
    x = torch.tensor([[0.0, 0.0], [1.0, 100.0]])
    tally = Tally(calibrated(activation_spec(8, granularity="per_channel"), x))
    tally.add(x)
    found = tally.histogram("x")
    assert (found.unit, found.scales) == ("step", 2)
    assert (found.low, found.high) == (0.0, 255.0)
    # both channels use the whole grid
    assert found.minimum == 0.0 and found.maximum == pytest.approx(255.0)
    assert sum(count > 0 for count in found.counts) == 2


def test_rotated_values_are_counted_as_they_are_rounded():
    spec = QuantSpec(8, rotation_axis=-1)
    x = torch.zeros(4, 16)
    x[:, 0] = 16.0
    tally = Tally(calibrated(spec, x))
    tally.add(x)
    # a Hadamard rotation spreads one value evenly over the channels: 16 / sqrt(16)
    assert tally.histogram("x").maximum == pytest.approx(4.0)


@pytest.fixture
def model() -> nn.Sequential:
    layers = [
        QuantLinear.from_module(nn.Linear(8, 8), weight_spec(4), activation_spec(8), name=str(index))
        for index in range(5)
    ]
    model = nn.Sequential(*layers)
    x = values().view(-1, 8)
    with calibrating(model), torch.no_grad():
        model(x)
    freeze(model)
    with recording_sqnr(model), torch.no_grad():
        model(x)
    return model


def test_half_are_weights_and_the_worst_come_first(model):
    chosen = lowest(model, 6)
    assert [name.rpartition(".")[2] for name in chosen] == ["weight"] * 3 + ["input"] * 3
    noise = [one.sqnr for one in chosen.values()]
    assert noise[:3] == sorted(noise[:3]) and noise[3:] == sorted(noise[3:])
    worst = min(one.sqnr for name, one in quantizers(model) if name.endswith("weight_quantizer"))
    assert noise[0] == worst


def test_more_than_there_are_is_all(model):
    assert len(lowest(model, 100)) == 10
    assert [name.rpartition(".")[2] for name in lowest(model, 8)].count("weight") == 4


def test_one_pass_collects_all_and_leaves_no_hooks(model):
    x = values().view(-1, 8)
    batches = x.split(100)
    found = collect(model, lambda: [model(batch) for batch in batches], 12)
    assert {one.name for one in found} == {f"{index}.{kind}" for index in range(5) for kind in ("weight", "input")}
    totals = {one.name: one.total for one in found}
    assert totals["0.weight"] == 64 and totals["0.input"] == x.numel()
    (first,) = [one for one in found if one.name == "0.input"]
    assert first.counts == tuple(torch.histc(x, BINS, first.start, first.stop).long().tolist())
    assert not any(one._forward_pre_hooks for one in model.modules())


def test_hooks_are_removed_after_an_error(model):
    with pytest.raises(ZeroDivisionError):
        collect(model, lambda: 1 // 0)
    assert not any(one._forward_pre_hooks for one in model.modules())


def test_quantizers_without_values_are_left_out(model):
    assert collect(model, lambda: None) == ()
