"""White Gaussian noise, from which V1 starts (PSAQ-ViT, Li et al., ECCV 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import STARTS, ImageStart


@STARTS.register("white")
class WhiteNoise(ImageStart):
    """Independent pixels from ``N(0, 1)``, clamped to the bounds."""

    def draw(self, count: int, size: tuple[int, int], low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
        """Draws images; see :meth:`ImageStart.draw`."""
        noise = torch.randn((count, len(low), *size), generator=generator, device=generator.device)
        return noise.clamp_(low, high)
