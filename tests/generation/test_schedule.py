from __future__ import annotations

import pytest

from psaq_mm.generation import cosine_with_warmup


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.01), (99, 1.0), (100, 1.0), (300, 0.5), (500, 0.0), (600, 0.0)], ids=str
)
def test_v1s_schedule(step: int, factor: float) -> None:
    assert cosine_with_warmup(step, 500, 100) == pytest.approx(factor)


@pytest.mark.parametrize("warmup", [0, 3, 10], ids=str)
def test_factors_stay_within_0_and_1_and_never_start_at_0(warmup: int) -> None:
    factors = [cosine_with_warmup(step, 10, warmup) for step in range(10)]
    assert all(0 < factor <= 1 for factor in factors)
