"""What every registered start must fulfil: bounds, seeds, errors."""

from __future__ import annotations

import pytest
import torch

from psaq_mm.generation import GenerationError, initial_images
from psaq_mm.generation.starts import STARTS

LOW, HIGH = (-2.1, -2.0, -1.8), (2.2, 2.4, 2.6)
# One entry per file of psaq_mm/generation/starts.
NAMES = ["fractal", "white"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_starts_are_tested_here() -> None:
    assert list(STARTS.names) == NAMES


@pytest.mark.parametrize("start", NAMES)
def test_images_lie_within_the_bounds_and_follow_from_the_seed(start: str) -> None:
    images = initial_images(6, (24, 32), LOW, HIGH, seeded(), start)
    assert images.shape == (6, 3, 24, 32) and images.dtype == torch.float32
    low, high = torch.tensor(LOW).view(3, 1, 1), torch.tensor(HIGH).view(3, 1, 1)
    assert bool(((images >= low) & (images <= high)).all())
    assert torch.equal(images, initial_images(6, (24, 32), LOW, HIGH, seeded(), start))
    assert not torch.equal(images, initial_images(6, (24, 32), LOW, HIGH, seeded(1), start))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((LOW, HIGH, "pink"), "'pink' is unknown", id="unknown-start"),
        pytest.param((HIGH, LOW, "fractal"), "lower below upper", id="crossed-bounds"),
        pytest.param((LOW, HIGH[:2], "white"), "one value per channel", id="other-channels"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[tuple[float, ...], tuple[float, ...], str], message: str) -> None:
    low, high, start = arguments
    with pytest.raises(GenerationError, match=message):
        initial_images(1, (8, 8), low, high, seeded(), start)
