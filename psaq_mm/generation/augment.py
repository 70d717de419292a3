"""Augmentation: cyclic shift and flip of the images in each step, random crops of the images of calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


@dataclass(frozen=True)
class RandomCrops:
    """Adds random crops of every image, resized to the size of the image and possibly flipped.

    A crop has the aspect ratio of the image; its side relative to the image's is drawn uniformly from
    ``[smallest, 1]``, its place uniformly from all that fit.

    Example: 32 images of 224 x 224 with ``count=2`` and ``smallest=0.5`` become 96 of this size. The last 64 show parts
    of 112 x 112 to 224 x 224 pixels.

    Args:
        count: Crops of every image; 0 for none.
        smallest: Smallest side of a crop relative to the image's, in (0, 1].
        flip: Probability of the flip, 0 to 1.

    Raises:
        GenerationError: An argument is outside its range.
    """

    count: int = 2
    smallest: float = 0.5
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 0:
            raise GenerationError(f"crops {self.count!r} is not a whole number of at least 0: give 0 for none")
        if not 0 < self.smallest <= 1:
            raise GenerationError(f"smallest {self.smallest} is not a relative size: give more than 0, at most 1")
        if not 0 <= self.flip <= 1:
            raise GenerationError(f"flip {self.flip} is not a probability: give 0 to 1")

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The images, then ``count`` times a crop of each.

        Args:
            images: ``(batch, channels, H, W)``.
            generator: Random number generator on the CPU.

        Returns:
            ``((1 + count) * batch, channels, H, W)``.
        """
        return torch.cat(
            [images, *(self.crop(one, generator) for _ in range(self.count) for one in torch.split(images, 1))]
        )

    def crop(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One random crop of one image ``(1, channels, H, W)``; same shape."""
        height, width = image.shape[-2:]
        share, down, right, flip = torch.rand(4, generator=generator).tolist()
        side = self.smallest + (1 - self.smallest) * share
        rows, columns = max(1, int(height * side)), max(1, int(width * side))
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        part = image[..., top : top + rows, left : left + columns]
        resized = F.interpolate(part, size=(height, width), mode="bicubic", align_corners=False)
        return resized.flip(-1) if flip < self.flip else resized
