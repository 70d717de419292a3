"""Bit widths for a budget."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psaq_mm.analysis.budget import Budget, allocate
from psaq_mm.analysis.sensitivity import Sensitivity
from psaq_mm.errors import UsageError


def rows_of(name: str, parameters: int, values: dict[int, float], tensor: str = "weight") -> list[Sensitivity]:
    return [Sensitivity(name, tensor, bits, parameters, value, value) for bits, value in values.items()]


def test_the_example_of_the_docstring():
    rows = [*rows_of("a", 100, {4: 0.1, 8: 0.0}), *rows_of("b", 100, {4: 0.9, 8: 0.0})]
    chosen = allocate(rows, Budget("size", 6 / 32), score="features")
    assert chosen.bits == {("a", "weight"): 4, ("b", "weight"): 8}
    assert (chosen.score, chosen.share, chosen.gap) == (pytest.approx(0.1), 6 / 32, 0)


LAYERS = st.lists(
    st.tuples(st.integers(1, 500), st.lists(st.floats(1e-9, 1e3), min_size=3, max_size=3)), min_size=1, max_size=5
)


@given(LAYERS, st.floats(3 / 32, 9 / 32))
@settings(deadline=None, max_examples=40)
def test_no_choice_within_the_budget_has_a_smaller_score(layers, share):
    widths = (3, 4, 8)
    rows = [
        row
        for index, (count, values) in enumerate(layers)
        for row in rows_of(str(index), count, dict(zip(widths, values, strict=True)))
    ]
    chosen = allocate(rows, Budget("size", share), score="features")
    whole = sum(count for count, _ in layers) * 32
    # the solver's constraint holds to 1e-6 of the budget
    fits = [
        sum(values[widths.index(bits)] for bits, (_, values) in zip(choice, layers, strict=True))
        for choice in product(widths, repeat=len(layers))
        if sum(bits * count for bits, (count, _) in zip(choice, layers, strict=True)) <= share * whole
    ]
    largest = max(value for _, values in layers for value in values)
    assert chosen.score <= min(fits) + 1e-6 * largest
    assert chosen.share <= share * (1 + 1e-5)


def test_operations_weigh_pairs_of_bits_and_both_operands_of_a_product_have_the_same():
    rows = [
        *rows_of("fc", 10, {4: 0.5, 8: 0.0}),
        *rows_of("fc", 0, {4: 0.3, 8: 0.0}, "input"),
        *rows_of("qk", 0, {4: 0.1, 8: 0.0}, "left"),
        *rows_of("qk", 0, {4: 0.1, 8: 0.0}, "right"),
    ]
    counts = {"fc": 100, "qk": 100}
    # 8 x 4 for fc and 4 x 4 for qk are 48 of 2 x 1024
    chosen = allocate(rows, Budget("bops", 48 / 2048), counts, "features")
    assert chosen.bits == {("fc", "weight"): 8, ("fc", "input"): 4, ("qk", "left"): 4, ("qk", "right"): 4}
    assert chosen.share == 48 / 2048


def test_overrides_name_the_layers_whose_bits_differ():
    rows = [*rows_of("a", 100, {4: 0.1, 8: 0.0}), *rows_of("b", 100, {4: 0.9, 8: 0.0})]
    chosen = allocate(rows, Budget("size", 6 / 32), score="features")
    assert chosen.overrides({"a": {"weight": 4}, "b": {"weight": 4}}) == [{"pattern": "b", "weight_bits": 8}]
    assert chosen.overrides({"a": {"weight": 8}, "b": {"weight": 8}}) == [{"pattern": "a", "weight_bits": 4}]


@pytest.mark.parametrize(
    "text", ["size", "size=", "size=0", "size=2", "size=-1", "speed=0.5", "bops=nan", "=0.1", "size=4MB"]
)
def test_a_budget_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="budget .* is not valid: write size="):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("budget", "widths", "tensors", "message"),
    [
        ("size=0.1", (8, 4), "all", "below what 4 bits everywhere need, 0.125"),
        ("bops=0.01", (8, 4), "all", "below what 4 bits everywhere need, 0.01562"),
        ("size=0.2", (8, 4), "activations", "needs the sensitivity of all tensors"),
        ("bops=0.2", (8, 4), "weights", "needs the sensitivity of all tensors"),
        ("latency=0.5", (8,), "weights", "latency needs the sensitivity of all tensors"),
        ("latency=1", (8,), "all", "latency=1 is met by floating point: give a share below 1"),
    ],
)
def test_what_no_analysis_can_meet_is_refused_before_it(budget, widths, tensors, message):
    with pytest.raises(UsageError, match=message):
        Budget.parse(budget).check(widths, tensors)


def test_what_an_analysis_can_meet_passes():
    Budget.parse("size=0.125").check((8, 4), "weights")
    Budget.parse("bops=0.015625").check((8, 4))
    Budget.parse("latency=0.01").check((8,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("size=0.125", Budget("size", 0.125)), ("bops=1", Budget("bops", 1.0)), ("latency=0.5", Budget("latency", 0.5))],
)
def test_a_budget_is_read(text, expected):
    assert Budget.parse(text) == expected


def test_a_budget_below_the_smallest_widths_says_what_they_need():
    with pytest.raises(UsageError, match=r"size=0.1 is below the least that the measured widths allow, 0.125: raise"):
        allocate(rows_of("a", 100, {4: 0.1, 8: 0.0}), Budget("size", 0.1))


def test_a_score_that_was_not_measured_is_refused():
    rows = [Sensitivity("a", "weight", 4, 100, 0.1, None)]
    with pytest.raises(UsageError, match="no score 'logits': use 'features'"):
        allocate(rows, Budget("size", 0.5), score="logits")


def test_without_weights_there_is_nothing_to_choose():
    with pytest.raises(UsageError, match="measure weights"):
        allocate(rows_of("a", 0, {4: 0.1}, "input"), Budget("size", 0.5))


ERRORS = ((4, 0.01), (8, 0.0))


def test_a_layer_behind_the_features_gets_bits_by_its_effect_on_the_logits():
    """With the features alone a classifier's head, which cannot move them, would always get the fewest bits."""
    names = ("first", "second", "third", "fourth")
    rows = [Sensitivity(name, "weight", bits, 100, error, error) for name in names for bits, error in ERRORS]
    rows += [Sensitivity("head", "weight", bits, 100, 0.0, 5 * error) for bits, error in ERRORS]
    budget = Budget("size", 5 / 32)  # eight bits for one of five
    assert allocate(rows, budget, score="features").bits["head", "weight"] == 4
    assert allocate(rows, budget, score="logits").bits["head", "weight"] == 8
    assert allocate(rows, budget).bits["head", "weight"] == 8
