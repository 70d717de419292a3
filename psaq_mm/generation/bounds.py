"""The range of valid pixels, one pair of bounds per channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import GenerationError

Bounds = Tensor | Sequence[float]


def channel_bounds(lower: Bounds, upper: Bounds, device: torch.device) -> tuple[Tensor, Tensor]:
    """Converts both bounds to float32 tensors that broadcast over images.

    Example: 8-bit pixels normalised by mean 123.7 and std 58.4 lie in [(0 - 123.7) / 58.4, (255 - 123.7) / 58.4] =
    [-2.12, 2.25].

    Args:
        lower: Smallest valid value per channel, in normalised units.
        upper: Largest valid value per channel.
        device: Where the result lies.

    Returns:
        Lower and upper bound, each of shape ``(channels, 1, 1)``.

    Raises:
        GenerationError: They have different lengths, or a lower bound is not below its upper bound.
    """
    low, high = (torch.as_tensor(bound, dtype=torch.float32, device=device) for bound in (lower, upper))
    if low.dim() != 1 or low.shape != high.shape or not bool((low < high).all()):
        raise GenerationError("lower and upper must have one value per channel each, lower below upper")
    return low.view(-1, 1, 1), high.view(-1, 1, 1)
