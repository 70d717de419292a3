"""The base class of initial images and their selection by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import GenerationError
from ...utils.registry import Registry
from ..bounds import Bounds, channel_bounds


class ImageStart(ABC):
    """Draws the images that an optimisation starts from.

    Attributes:
        name: The name that a config selects the class by.
    """

    name: ClassVar[str]

    @abstractmethod
    def draw(self, count: int, size: tuple[int, int], low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
        """Draws images.

        Args:
            count: Number of images.
            size: Height and width.
            low: Smallest valid value per channel, shape ``(channels, 1, 1)``.
            high: Largest valid value per channel, same shape.
            generator: Source of randomness; the images lie on its device.

        Returns:
            Shape ``(count, channels, H, W)``, float32, within the bounds.
        """


STARTS: Registry[ImageStart] = Registry("start", GenerationError, __package__ or "")


def initial_images(
    count: int,
    size: tuple[int, int],
    lower: Bounds,
    upper: Bounds,
    generator: torch.Generator,
    start: str = "white",
    **options: Any,
) -> Tensor:
    """Draws images to start an optimisation from.

    Args:
        count: Number of images.
        size: Height and width.
        lower: Smallest valid value per channel, in normalised units: ``(0 - mean) / std``.
        upper: Largest valid value per channel: ``(255 - mean) / std`` for 8-bit statistics.
        generator: Source of randomness; the images lie on its device.
        start: Name of a registered :class:`ImageStart`: ``"white"`` or ``"fractal"``.
        **options: Arguments of that class.

    Returns:
        Shape ``(count, channels, H, W)``, float32, within the bounds.

    Raises:
        GenerationError: The name is unknown, or the bounds have different lengths or are not in order.
    """
    method = STARTS.get(start)(**options)
    low, high = channel_bounds(lower, upper, generator.device)
    return method.draw(count, size, low, high, generator)
