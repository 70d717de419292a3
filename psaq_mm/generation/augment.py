"""The views in which images are seen: shifted and mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GenerationError


@dataclass(frozen=True)
class View:
    """One draw: a cyclic shift in pixels and a mirror.

    Args:
        down: Shift along the height.
        right: Shift along the width.
        mirrored: Flip the width after the shifts.
    """

    down: int
    right: int
    mirrored: bool

    def __call__(self, x: Tensor) -> Tensor:
        """The images ``(..., H, W)`` in this view, same shape."""
        x = torch.roll(x, (self.down, self.right), dims=(-2, -1))
        return x.flip(-1) if self.mirrored else x


@dataclass(frozen=True)
class RollFlip:
    """Random cyclic shift and horizontal flip, one draw for the whole batch or one for every image.

    V1 shifts both axes by one and the same offset, up to 15 pixels in its first 500 steps and 30 later; ours draws the
    axes independently, or the patch grid would only ever move along the diagonal.

    Args:
        max_shift: Largest shift in pixels, in either direction.
        flip: Probability of the flip, 0 to 1.
        per_image: Whether every image of a batch has a view of its own; for batches that are seen at once, not those
            of :meth:`draw`.

    Raises:
        GenerationError: A value lies outside its range.
    """

    max_shift: int = 30
    flip: float = 0.5
    per_image: bool = False

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise GenerationError(f"max_shift {self.max_shift} must not be negative: give 0 to switch shifts off")
        if not 0 <= self.flip <= 1:
            raise GenerationError(f"flip {self.flip} is no probability: give 0 to 1")

    def draw(self, generator: torch.Generator | None = None) -> View:
        """A view to apply to several chunks of one batch."""
        device = None if generator is None else generator.device
        shifts = torch.randint(-self.max_shift, self.max_shift + 1, (2,), generator=generator, device=device)
        down, right = shifts.tolist()
        return View(down, right, bool(torch.rand((), generator=generator, device=device) < self.flip))

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The images ``(batch, channels, H, W)`` in a fresh view, or in one each, same shape."""
        if self.per_image:
            return torch.stack([self.draw(generator)(image) for image in x])
        return self.draw(generator)(x)
