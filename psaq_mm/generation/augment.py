"""Augmentation of the images in each step: cyclic shift and horizontal flip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GenerationError


@dataclass(frozen=True)
class View:
    """One cyclic shift in pixels, then optionally a horizontal flip.

    Example: the row 0, 1, 2, 3 shifted right by 1 is 3, 0, 1, 2; then flipped, 2, 1, 0, 3.

    Args:
        down: Shift along the height, in pixels.
        right: Shift along the width, in pixels.
        mirrored: Whether to flip the width after the shifts.
    """

    down: int
    right: int
    mirrored: bool

    def __call__(self, x: Tensor) -> Tensor:
        """The shifted and flipped images, of the same shape ``(..., H, W)``."""
        x = torch.roll(x, (self.down, self.right), dims=(-2, -1))
        return x.flip(-1) if self.mirrored else x


@dataclass(frozen=True)
class RollFlip:
    """Random cyclic shift and horizontal flip, drawn once per batch or once per image.

    V1 shifts both axes by the same offset, up to 15 pixels in its first 500 steps and up to 30 later. Ours draws one
    offset per axis, because with a common offset the patch grid would only move along the diagonal.

    Args:
        max_shift: Largest shift in pixels, in either direction.
        flip: Probability of the flip, 0 to 1.
        per_image: Whether a call draws a separate view for every image of the batch. Has no effect on :meth:`draw`.

    Raises:
        GenerationError: An argument is outside its range.
    """

    max_shift: int = 30
    flip: float = 0.5
    per_image: bool = False

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise GenerationError(f"max_shift {self.max_shift} must not be negative: give 0 to switch shifts off")
        if not 0 <= self.flip <= 1:
            raise GenerationError(f"flip {self.flip} is not a probability: give 0 to 1")

    def draw(self, generator: torch.Generator | None = None) -> View:
        """Draws one view, for all chunks of a batch."""
        device = None if generator is None else generator.device
        shifts = torch.randint(-self.max_shift, self.max_shift + 1, (2,), generator=generator, device=device)
        down, right = shifts.tolist()
        return View(down, right, bool(torch.rand((), generator=generator, device=device) < self.flip))

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws one view, or one per image, and applies it to images ``(batch, channels, H, W)``; same shape."""
        if self.per_image:
            return torch.stack([self.draw(generator)(image) for image in x])
        return self.draw(generator)(x)
