from __future__ import annotations

import torch

from psaq_mm.generation import initial_images

LOWER, UPPER = (-2.0, -1.5, -1.0), (2.0, 1.5, 1.0)


def test_white_noise_is_clamped_reproducible_and_the_default() -> None:
    images = initial_images(4, (20, 30), LOWER, UPPER, torch.Generator().manual_seed(0))
    assert images.shape == (4, 3, 20, 30)
    assert torch.equal(images, initial_images(4, (20, 30), LOWER, UPPER, torch.Generator().manual_seed(0), "white"))
    assert images.amax((0, 2, 3)).tolist() == list(UPPER) and images.amin((0, 2, 3)).tolist() == list(LOWER)
    assert images.mean().abs() < 0.05
