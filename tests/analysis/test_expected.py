"""The expected loss of accuracy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psaq_mm.analysis.expected import CURVES, NOISE, LossCurve, fit, held_out, log_spread

TRUE = LossCurve("logits", 3.0, 1.5, 0.0)
PLACES = (0.05, 0.1, 0.3, 1.0, 2.0, 4.0)


def test_the_example_of_the_docstring():
    assert LossCurve("logits", 2.0, 1.0, 0.0).share(0.02) == pytest.approx(0.00995, abs=5e-6)


def test_one_standard_deviation_on_either_side():
    estimate = LossCurve("logits", 1.0, 1.0, math.log(2)).estimate(0.1)
    assert estimate == pytest.approx((0.0951626 / 2, 0.0951626, 0.0951626 * 2), rel=1e-5)


def test_a_small_loss_is_known_to_the_noise_of_the_test_sets():
    low, expected, high = LossCurve("logits", 1.0, 1.0, math.log(2)).estimate(1e-4)
    assert (low, high) == (0.0, pytest.approx(expected + NOISE))


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1e-3, 1e3), st.floats(0.25, 4), st.floats(0, 2))
def test_shares_grow_with_the_distance_and_stay_below_one(one, other, scale, power, spread):
    curve = LossCurve("logits", scale, power, spread)
    near, far = sorted((one, other))
    assert 0 <= curve.share(near) <= curve.share(far) <= 1
    low, expected, high = curve.estimate(far)
    assert 0 <= low <= expected <= high <= 1


def test_a_fit_finds_the_curve_behind_the_points():
    found = fit("logits", [(x, TRUE.share(x)) for x in PLACES])
    # exact points, up to the solver's tolerance of 1e-8 in the squared sum
    assert (found.scale, found.power, found.spread) == pytest.approx((3.0, 1.5, 0.0), abs=1e-3)


def test_the_example_of_the_spread():
    assert log_spread([(0.02, 0.04), (0.1, 0.1)]) == pytest.approx(0.49, abs=5e-3)


def test_the_spread_is_that_of_the_logarithms():
    generator = np.random.default_rng(0)
    noisy = [(x, TRUE.share(x) * math.exp(generator.normal(0, 0.2))) for x in np.geomspace(0.1, 2, 200)]
    # 200 points: the estimate of a standard deviation scatters by 5 %
    assert fit("logits", noisy).spread == pytest.approx(0.2, rel=0.2)


def test_gains_and_losses_below_the_noise_count_alike():
    points = [(x, TRUE.share(x)) for x in PLACES]
    assert fit("logits", [*points, (1e-3, -0.01)]) == fit("logits", [*points, (1e-3, 0.0)])


def test_the_points_of_a_group_do_not_change_what_is_expected_of_it():
    groups = {"a": [(x, TRUE.share(x)) for x in PLACES], "b": [(x, TRUE.share(x)) for x in PLACES], "c": [(1.0, 0.9)]}
    found = held_out("logits", groups)
    assert found["c"] == pytest.approx([TRUE.share(1.0)], rel=1e-3)
    assert found["a"] != pytest.approx([TRUE.share(x) for x in PLACES], rel=1e-3)  # pulled up by c


@pytest.mark.parametrize("figure", CURVES, ids=str)
def test_curves_with_the_smaller_spread_first(figure):
    curves = CURVES[figure]
    assert "logits" in [curve.distance for curve in curves]
    assert [curve.spread for curve in curves] == sorted(curve.spread for curve in curves)
    assert all(curve.scale > 0 and curve.power > 0 for curve in curves)
