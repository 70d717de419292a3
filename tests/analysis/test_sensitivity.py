"""Distances of outputs, and the sensitivity of each tensor."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from psaq_mm.analysis.probe import Probe, probed_tensors
from psaq_mm.analysis.sensitivity import (
    Reference,
    Sensitivity,
    divergence,
    relative_error,
    score_values,
    sensitivities,
)
from psaq_mm.quantization import QuantPolicy, calibrating, quantize_model


def test_the_example_of_the_relative_error():
    assert relative_error([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.0])]) == pytest.approx(0.04)


def test_outputs_of_zeros_are_left_out_of_the_relative_error():
    zeros, ones = torch.zeros(2), torch.ones(2)
    assert relative_error([zeros, ones], [ones, ones / 2]) == pytest.approx(0.25)
    assert relative_error([zeros], [ones]) == 0


@given(st.floats(1e-18, 1e18), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_relative_error_does_not_depend_on_the_unit(unit, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 40, generator=generator)
    # float32 holds the products with a relative error of 6e-8
    assert relative_error([x * unit], [y * unit]) == pytest.approx(relative_error([x], [y]), rel=1e-5)


def test_the_divergence_of_two_classes_is_that_of_the_one_logit_between_them():
    two = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert divergence([two[0]], [two[1]]) == pytest.approx(expected)
    assert divergence([two[0][:, :1]], [two[1][:, :1]]) == pytest.approx(expected)


@given(st.floats(-30, 30), st.floats(-30, 30))
@settings(deadline=None, max_examples=30)
def test_the_divergence_ignores_what_a_softmax_ignores(first, second):
    x, y = torch.tensor([[0.1, 0.9, -2.0]]), torch.tensor([[0.2, 0.5, -1.0]])
    # numbers up to 30 in float32 have an absolute error of 2e-6
    assert divergence([x + first], [y + second]) == pytest.approx(divergence([x], [y]), abs=1e-5)


class Classifier(nn.Module):
    """A backbone of two layers, of which the second one's weight has no effect on the output, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + 0 * self.second(self.first(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def both(net, images):
    return [net.features(images)], [net(images)]


def probed(bits: int) -> tuple[Probe, list[torch.Tensor]]:
    images = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    net = quantize_model(copy.deepcopy(Classifier()), QuantPolicy(weight_bits=bits, activation_bits=bits))

    def calibrate() -> None:
        with calibrating(net), torch.no_grad():
            net(images)

    return Probe(net, calibrate), list(images.split(16))


def test_a_tensor_without_effect_has_no_sensitivity_and_others_have_more_at_fewer_bits():
    found = {}
    for bits in (8, 4):
        probe, batches = probed(bits)
        reference = Reference(probe.network, batches, [both] * 2, classes=True)
        found[bits] = {row.key: row for row in sensitivities(probe, reference, probed_tensors(probe.network))}
    for bits in (8, 4):
        for tensor in ("weight", "input"):
            assert found[bits]["second", tensor].features == found[bits]["second", tensor].logits == 0
            assert found[bits]["head", tensor].features == 0 < found[bits]["head", tensor].logits
    for tensor in ("weight", "input"):
        # a step 17 times as large moves outputs by about 17 times as much, hence 289 times in squares
        ratio = found[4]["first", tensor].features / found[8]["first", tensor].features
        assert 100 < ratio < 900


def test_batches_count_by_their_images():
    probe, batches = probed(4)
    whole = Reference(probe.network, [torch.cat(batches)], [both], classes=True)
    parts = Reference(probe.network, batches, [both] * 2, classes=True)
    with probe.only([("first", "weight")]) as net:
        # the divergence is a mean over images; relative errors of batches have other denominators
        assert parts.distances(net)[1] == pytest.approx(whole.distances(net)[1], rel=1e-4)


def test_without_logits_there_is_no_distance_of_them():
    probe, batches = probed(4)
    reference = Reference(probe.network, batches, [lambda net, x: ([net.features(x)], [])] * 2, classes=False)
    (row,) = sensitivities(probe, reference, probed_tensors(probe.network)[:1])
    assert row.logits is None and row.features > 0


def pair(features: float, logits: float | None) -> Sensitivity:
    return Sensitivity("layer", "weight", 4, 1, features, logits, {"own": features * 2})


@pytest.mark.parametrize(
    ("rows", "name", "expected"),
    [
        pytest.param([pair(3, 0.2), pair(1, 0.8)], "outputs", [0.95, 1.05], id="both"),
        pytest.param([pair(3, None), pair(1, None)], "outputs", [0.75, 0.25], id="no-logits"),
        pytest.param([pair(0, 1), pair(0, 3)], "outputs", [0.25, 0.75], id="behind-the-backbone"),
        pytest.param([pair(0, 0), pair(0, 0)], "outputs", [0, 0], id="nothing-moves"),
        pytest.param([], "outputs", [], id="no-rows"),
        pytest.param([pair(3, 0.2), pair(1, 0.8)], "logits", [0.2, 0.8], id="logits"),
        pytest.param([pair(3, None)], "logits", [None], id="missing"),
        pytest.param([pair(3, None)], "own", [6], id="further"),
        pytest.param([pair(3, None)], "other", [None], id="not-measured"),
    ],
)
def test_the_score_of_rows(rows, name, expected):
    found = score_values(rows, name)
    assert [None if one is None else pytest.approx(one) for one in found] == expected
