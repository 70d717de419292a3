"""Layers in floating point or in integers, for a share of the time."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psaq_mm.analysis.budget import Budget, allocate
from psaq_mm.analysis.sensitivity import Sensitivity
from psaq_mm.errors import UsageError


def layer(name: str, weight: dict[int, float], other: dict[int, float], kind=("weight", "input")) -> list[Sensitivity]:
    parts = zip(kind, (weight, other), strict=True)
    return [Sensitivity(name, tensor, b, 0, v, None) for tensor, values in parts for b, v in values.items()]


def chosen(rows, share, times):
    return allocate(rows, Budget("latency", share), times=times, score="features")


def test_the_example_of_the_docstring():
    rows = [*layer("a", {8: 0.1}, {8: 0.1}), *layer("b", {8: 0.1}, {8: 0.1})]
    found = chosen(rows, 0.7, {"a": {"32": 2e-3, "8": 1e-3}, "b": {"32": 1e-3, "8": 0.8e-3}})
    assert found.bits == {("a", "weight"): 8, ("a", "input"): 8, ("b", "weight"): 32, ("b", "input"): 32}
    assert (found.cost, found.whole, found.score) == pytest.approx((2e-3, 3e-3, 0.2))
    assert (found.layers(floating=True), found.layers(floating=False)) == (["b"], ["a"])
    assert found.overrides({"a": {"weight": 8, "input": 8}, "b": {"weight": 8, "input": 8}}) == [
        {"pattern": "b", "keep_fp": True, "reason": "chosen by a budget"}
    ]


def test_three_layers_by_hand():
    """The budget is 4.5 of 6 ms; savings are 1, 1 and 0.5 ms. Two layers suffice: b and c, or a and one other.

    The sensitivities are 0.5, 0.2 and 0.1: b and c have the least sum.
    """
    rows = [*layer("a", {8: 0.4}, {8: 0.1}), *layer("b", {8: 0.1}, {8: 0.1}), *layer("c", {8: 0.1}, {8: 0.0})]
    times = {"a": {"32": 3e-3, "8": 2e-3}, "b": {"32": 2e-3, "8": 1e-3}, "c": {"32": 1e-3, "8": 0.5e-3}}
    found = chosen(rows, 0.75, times)
    assert found.layers(floating=True) == ["a"]
    assert (found.score, found.share, found.gap) == (pytest.approx(0.3), pytest.approx(0.75), 0)
    # 3.6 ms: all but c
    assert chosen(rows, 0.7, times).layers(floating=True) == ["c"]


def test_integers_have_the_widths_with_the_least_sensitivity():
    rows = [*layer("a", {8: 0.3, 4: 0.2}, {8: 0.1, 4: 0.9}), *layer("b", {8: 0.0, 4: 0.0}, {8: 0.0, 4: 0.0})]
    # the operands of a product have one width: 0.5 at 8 bits, 0.6 at 4
    rows += layer("qk", {8: 0.1, 4: 0.5}, {8: 0.4, 4: 0.1}, ("left", "right"))
    found = chosen(rows, 0.5, dict.fromkeys(("a", "b", "qk"), {"32": 2e-3, "8": 1e-3}))
    assert {key: bits for key, bits in found.bits.items() if key[0] == "a"} == {("a", "weight"): 4, ("a", "input"): 8}
    assert found.bits["b", "weight"] == 8, "of equal ones the larger"
    assert found.bits["qk", "left"] == found.bits["qk", "right"] == 8


@pytest.mark.parametrize(
    ("times", "floating"),
    [
        pytest.param({"32": 1e-3, "8": 1.5e-3}, True, id="slower-in-integers"),
        pytest.param({"32": 1e-3, "8": 1e-3}, True, id="as-fast"),
        pytest.param({"32": 1e-3}, True, id="not-exported-in-integers"),
        pytest.param({"32": 1e-3, "8": 0.9e-3}, False, id="faster-without-error"),
    ],
)
def test_a_form_that_is_not_better_is_never_taken(times, floating):
    rows = [*layer("a", {8: 0.0}, {8: 0.0}), *layer("b", {8: 0.1}, {8: 0.1})]
    found = chosen(rows, 0.95, {"a": times, "b": {"32": 1e-3, "8": 0.1e-3}})
    assert ("a" in found.layers(floating=True)) == floating


def test_layers_without_times_or_with_one_measured_operand_are_not_counted():
    rows = [*layer("a", {8: 0.1}, {8: 0.1}), *layer("late", {8: 0.1}, {8: 0.1})]
    rows += [Sensitivity("half", "weight", 8, 10, 0.1, None), Sensitivity("av", "right", 8, 0, 0.1, None)]
    fast = {"32": 1e-3, "8": 0.5e-3}
    found = chosen(rows, 0.5, {"a": fast, "half": fast, "av": fast, "not-measured": fast})
    assert {key[0] for key in found.bits} == {"a"} and found.whole == 1e-3


def test_a_budget_below_the_fastest_forms_says_what_they_need():
    rows = [*layer("a", {8: 0.1}, {8: 0.1}), *layer("b", {8: 0.1}, {8: 0.1})]
    times = {"a": {"32": 1e-3, "8": 0.4e-3}, "b": {"32": 1e-3, "8": 2e-3}}
    with pytest.raises(
        UsageError, match=r"latency=0.6 is below the least that the measured widths allow, 0.7: raise it"
    ):
        chosen(rows, 0.6, times)


MEASURED = st.lists(
    st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(0, 1)),
    min_size=1,
    max_size=6,
)


@given(MEASURED, st.floats(0.3, 0.99))
@settings(deadline=None, max_examples=40)
def test_no_choice_within_the_budget_has_a_smaller_score(measured, share):
    times = {str(i): {"32": slow, "8": fast} for i, (slow, fast, _) in enumerate(measured)}
    rows = [row for i, (*_, score) in enumerate(measured) for row in layer(str(i), {8: score}, {8: 0.0})]
    limit = share * sum(slow for slow, *_ in measured)
    sums = [
        sum(score for (*_, score), taken in zip(measured, choice, strict=True) if taken)
        for choice in product((False, True), repeat=len(measured))
        if sum(one[taken] for one, taken in zip(measured, choice, strict=True)) <= limit
    ]
    if not sums:
        with pytest.raises(UsageError, match="is below the least"):
            chosen(rows, share, times)
        return
    found = chosen(rows, share, times)
    # the solver's constraint holds to 1e-6 of the budget, its sum to 1e-6 of the largest score
    assert found.score <= min(sums) + 1e-6 and found.cost <= limit * (1 + 1e-6)
