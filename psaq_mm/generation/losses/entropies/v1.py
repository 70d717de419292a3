"""The entropy of V1's published code (PSAQ-ViT, Li et al., ECCV 2022)."""

from __future__ import annotations

from torch import Tensor

from ...tokens import AttentionTokens
from ..kernel_density import kernel_entropy
from ..similarity import unit_tokens
from .base import ENTROPIES, KernelVariant

V1_BANDWIDTH, V1_POINTS, V1_OFFSET = 0.01, 10, 1e-4


@ENTROPIES.register("v1")
class V1Entropy(KernelVariant):
    """V1's entropy: token 0 is dropped in any network, all N * N similarities count, regions are ignored.

    ::

        f(t) = 1/M sum_m Normal(t; g_m, h),       H = - integral f log(f + 1e-4) dt

    by the trapezoidal rule over 10 evenly spaced points between the smallest and the largest similarity of the whole
    batch, with h = 0.01. The points are constants for autograd. The published code has ``(f + 1e-4) log(f + 1e-4)``,
    which differs by at most 2e-3 per layer. The loss is a sum over layers. Since the grid depends on the batch, the
    loss changes with the size of micro-batches.

    Args:
        bandwidth: ``h``. Default: 0.01.
        points: Number of grid points. Default: 10.

    Raises:
        GenerationError: Fewer than two points, or a bandwidth that is not positive.
    """

    def __init__(self, bandwidth: float | None = None, points: int | None = None) -> None:
        super().__init__(V1_BANDWIDTH if bandwidth is None else bandwidth, V1_POINTS if points is None else points)

    def entropy(self, layer: AttentionTokens) -> Tensor:
        """The entropy of each image, shape ``(batch,)``; see :meth:`EntropyVariant.entropy`."""
        units = unit_tokens(layer.without_first().tokens)
        return kernel_entropy(units, None, self.points, self.bandwidth, V1_OFFSET)

    def pair_count(self, layer: AttentionTokens) -> int:
        """M, the number of similarities per image: ``groups * (N - 1)^2`` for N tokens including token 0."""
        groups, count = layer.tokens.shape[1:3]
        return groups * max(count - 1, 0) ** 2

    def reduce(self, entropies: Tensor) -> Tensor:
        """Reduces the entropies of all layers, shape ``(L, batch)``, to one per image, shape ``(batch,)``: the sum."""
        return entropies.sum(0)
