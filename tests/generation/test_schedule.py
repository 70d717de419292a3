from __future__ import annotations

import pytest

from psaq_mm.generation import cosine_with_warmup
from psaq_mm.generation.schedule import constant_with_warmup


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.01), (99, 1.0), (100, 1.0), (300, 0.5), (500, 0.0), (600, 0.0)], ids=str
)
def test_v1s_schedule(step: int, factor: float) -> None:
    assert cosine_with_warmup(step, 500, 100) == pytest.approx(factor)


@pytest.mark.parametrize("warmup", [0, 3, 10], ids=str)
def test_factors_stay_within_0_and_1_and_never_start_at_0(warmup: int) -> None:
    for schedule in (cosine_with_warmup, constant_with_warmup):
        factors = [schedule(step, 10, warmup) for step in range(10)]
        assert all(0 < factor <= 1 for factor in factors)


def test_constant_after_its_warmup() -> None:
    assert [constant_with_warmup(step, 9, 2) for step in range(4)] == [0.5, 1, 1, 1]
