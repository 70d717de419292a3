from __future__ import annotations

import pytest
import torch

from psaq_mm.generation import GenerationError
from psaq_mm.generation.bounds import Bounds, channel_bounds


def test_bounds_broadcast_over_images() -> None:
    low, high = channel_bounds((-1.0, -2.0), torch.tensor([1.0, 2.0]), torch.device("cpu"))
    assert low.shape == high.shape == (2, 1, 1) and low.dtype == high.dtype == torch.float32
    assert torch.full((3, 2, 1, 1), 9.0).clamp(low, high)[0].flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("lower", "upper"),
    [((0.0,), (1.0, 1.0)), ((1.0,), (1.0,)), (torch.zeros(1, 2), torch.ones(1, 2))],
    ids=["lengths", "equal", "two-dims"],
)
def test_bounds_that_are_not_in_order_are_refused(lower: Bounds, upper: Bounds) -> None:
    with pytest.raises(GenerationError, match="lower below upper"):
        channel_bounds(lower, upper, torch.device("cpu"))
