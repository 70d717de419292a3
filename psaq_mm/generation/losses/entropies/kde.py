"""The entropy of a kernel density estimate on a fixed grid (ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....errors import GenerationError
from ...tokens import AttentionTokens
from ..kernel_density import kernel_entropy
from ..similarity import unit_tokens
from .base import ENTROPIES, KernelVariant

POINTS = 65


@ENTROPIES.register("kde")
class KernelDensityEntropy(KernelVariant):
    """The entropy of a density estimated from the comparable pairs i < j of one image.

    ::

        f(t) = 1/M sum_m Normal(t; g_m, h),       H = - integral f log f dt

    by the trapezoidal rule over ``points`` evenly spaced points on [-1, 1]. The bandwidth is at least their spacing:
    otherwise similarities between two points would get no gradient. Density outside [-1, 1] is ignored, so a
    similarity of 1 contributes half of its kernel. The grid does not depend on the batch, so every image's entropy is
    independent of the others.

    Args:
        bandwidth: ``h``. Default: the spacing of the grid, 1/32 for 65 points.
        points: Number of grid points. Default: 65.

    Raises:
        GenerationError: Fewer than two points, or a bandwidth below the spacing.
    """

    def __init__(self, bandwidth: float | None = None, points: int | None = None) -> None:
        points = POINTS if points is None else points
        spacing = 2 / max(points - 1, 1)
        super().__init__(spacing if bandwidth is None else bandwidth, points)
        # The tolerance only admits rounding of floats: 0.0312 for 1 / 32 is refused.
        if self.bandwidth < spacing * (1 - 1e-9):
            raise GenerationError(
                f"bandwidth {self.bandwidth:g} is below the grid spacing {spacing:g}: widen it or give more points"
            )

    def entropy(self, layer: AttentionTokens) -> Tensor:
        """The entropy of each image, shape ``(batch,)``; see :meth:`EntropyVariant.entropy`."""
        patches = layer.patches()
        units = unit_tokens(patches.tokens)
        grid = torch.linspace(-1, 1, self.points, dtype=units.dtype, device=units.device)
        return kernel_entropy(units, patches.regions, grid, self.bandwidth, torch.finfo(units.dtype).tiny)
