"""Patch-similarity entropy: how varied the similarities between the patches of an image are, layer by layer.

The idea and variant ``v1`` are PSAQ-ViT's (Li et al., ECCV 2022); the V2 abstract (Li et al., TNNLS 2023) keeps the
metric and publishes no constants. ``gaussian`` is MaskAQ's replacement of the kernel density (ICML 2026). The choice of
pairs, the fixed grid, the mean over layers and every default of ``kde`` and ``gaussian`` are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import GenerationError
from ..tokens import AttentionTokens
from .kernel_density import kernel_entropy
from .pairs import pair_variance
from .similarity import gram_variance, unit_tokens

VARIANTS = ("gaussian", "kde", "v1")
V1_BANDWIDTH, V1_POINTS, V1_OFFSET = 0.01, 10, 1e-4
KDE_POINTS = 65
VARIANCE_EPS = 1e-6


class PatchSimilarityEntropy(nn.Module):
    """The loss ``L_PSE`` that makes images varied: minus the entropy of patch similarities.

    For one image and layer let ``g_m`` be the M cosine similarities ``<z_i, z_j> / (|z_i| |z_j|)``, all windows
    together.

    ``gaussian`` (M pairs i < j that may attend to each other)::

        H = 0.5 log(2 pi e (var(g) + 1e-6)),      L = - mean_l mean_b H_lb

    ``kde`` (the same pairs)::

        f(t) = 1/M sum_m Normal(t; g_m, h)
        H    = - integral f log f dt,             L = - mean_l mean_b H_lb

    by the trapezoid over ``points`` even points on [-1, 1]; ``h`` is at least their spacing, or similarities between
    two points would get no gradient. Density beyond [-1, 1] is lost, so similarities at 1 count half.

    ``v1`` (token 0 dropped whatever it is, all N * N entries, regions ignored)::

        H = - integral f log(f + 1e-4) dt,        L = - sum_l mean_b H_lb

    by the trapezoid over 10 even points between the smallest and the largest similarity of the whole batch, constants
    to autograd, with h = 0.01. The published code has ``(f + 1e-4) log(f + 1e-4)``: at most 2e-3 a layer apart. Its
    grid couples the images, so micro-batches change the loss; ``gaussian`` and ``kde`` treat every image alone.

    Example: similarities 0, 1, 0 have variance 2/9 and the ``gaussian`` entropy 0.667; all alike, -5.49, the least.

    Args:
        variant: ``"gaussian"``, ``"kde"`` or ``"v1"``.
        bandwidth: ``h``. Default: the spacing for ``kde`` (1/32 at 65 points), 0.01 for ``v1``; none for ``gaussian``.
        points: Grid points. Default: 65 for ``kde``, 10 for ``v1``; none for ``gaussian``.

    Raises:
        GenerationError: Unknown variant; a bandwidth or points that it does not use or cannot work with.
    """

    def __init__(self, variant: str = "gaussian", bandwidth: float | None = None, points: int | None = None) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise GenerationError(f"variant {variant!r} is unknown: choose one of {', '.join(VARIANTS)}")
        if variant == "gaussian" and (bandwidth is not None or points is not None):
            raise GenerationError("variant 'gaussian' has no bandwidth and no points: leave them out or choose 'kde'")
        self.variant = variant
        self.points = points if points is not None else V1_POINTS if variant == "v1" else KDE_POINTS
        if self.points < 2:
            raise GenerationError(f"{self.points} grid points span no interval: give at least 2")
        spacing = 2 / (self.points - 1)
        self.bandwidth = bandwidth if bandwidth is not None else V1_BANDWIDTH if variant == "v1" else spacing
        if not self.bandwidth > 0:
            raise GenerationError(f"bandwidth {self.bandwidth} is not positive: give a width in units of similarity")
        # Only float noise is let through: 0.0312 for 1 / 32 is refused.
        if variant == "kde" and self.bandwidth < spacing * (1 - 1e-9):
            raise GenerationError(
                f"bandwidth {self.bandwidth:g} is below the grid spacing {spacing:g}: widen it or give more points"
            )

    def forward(self, layers: Sequence[AttentionTokens]) -> Tensor:
        """The loss, a scalar to minimise; see the class and :meth:`per_image`."""
        return -self.per_image(layers).mean()

    def per_image(self, layers: Sequence[AttentionTokens]) -> Tensor:
        """The entropy of each image: the mean over the layers, for ``v1`` the sum.

        Args:
            layers: Taps of one forward pass.

        Returns:
            Shape ``(batch,)``.

        Raises:
            GenerationError: See :meth:`per_layer`.
        """
        entropies = self.per_layer(layers)
        return entropies.sum(0) if self.variant == "v1" else entropies.mean(0)

    def per_layer(self, layers: Sequence[AttentionTokens]) -> Tensor:
        """The entropy of each image in each layer that counts.

        Args:
            layers: Taps of one forward pass.

        Returns:
            Shape ``(L, batch)``, one row for each of :meth:`usable`.

        Raises:
            GenerationError: No layer has two pairs, or the layers' batches differ.
        """
        usable = self.usable(layers)
        if not usable:
            raise GenerationError("no attention layer has two comparable pairs of tokens: check the taps and regions")
        if len({layer.tokens.shape[0] for layer in usable}) > 1:
            raise GenerationError("the layers' batch sizes differ: hand the taps of one forward pass")
        return torch.stack([self._entropy(layer) for layer in usable])

    def usable(self, layers: Sequence[AttentionTokens]) -> list[AttentionTokens]:
        """The layers that count: those with at least two pairs, fewer have no distribution.

        The pairs depend on the layer's windows and regions, not on the image, so a layer counts for all or for none.
        """
        return [layer for layer in layers if self._pair_count(layer) >= 2]

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        if self.variant == "gaussian":
            return f"variant={self.variant!r}"
        return f"variant={self.variant!r}, bandwidth={self.bandwidth:g}, points={self.points}"

    def _pair_count(self, layer: AttentionTokens) -> int:
        groups, count = layer.tokens.shape[1:3]
        if self.variant == "v1":
            return groups * max(count - 1, 0) ** 2
        return layer.patches().pair_count()

    def _entropy(self, layer: AttentionTokens) -> Tensor:
        """The entropy of each image in one layer, shape ``(batch,)``."""
        # Similarities of 0.99 and 0.991 are one number in half precision.
        with torch.autocast(layer.tokens.device.type, enabled=False):
            if self.variant == "v1":
                return self._v1(layer)
            patches = layer.patches()
            return self._gaussian(patches) if self.variant == "gaussian" else self._kde(patches)

    def _v1(self, layer: AttentionTokens) -> Tensor:
        units = unit_tokens(layer.without_first().tokens)
        return kernel_entropy(units, None, self.points, self.bandwidth, V1_OFFSET)

    def _kde(self, patches: AttentionTokens) -> Tensor:
        units = unit_tokens(patches.tokens)
        grid = torch.linspace(-1, 1, self.points, dtype=units.dtype, device=units.device)
        return kernel_entropy(units, patches.regions, grid, self.bandwidth, torch.finfo(units.dtype).tiny)

    def _gaussian(self, patches: AttentionTokens) -> Tensor:
        units = unit_tokens(patches.tokens)
        count, width = units.shape[2:]
        if patches.regions is None and count > width:
            variance = gram_variance(units)
        else:
            variance = pair_variance(units, patches.regions)
        return 0.5 * torch.log(2 * math.pi * math.e * (variance + VARIANCE_EPS))


def similarity_entropy(
    layers: Sequence[AttentionTokens],
    variant: str = "gaussian",
    bandwidth: float | None = None,
    points: int | None = None,
) -> Tensor:
    """The patch-similarity entropy of each image; :class:`PatchSimilarityEntropy` explains everything.

    Returns:
        Shape ``(batch,)``, in nats: mean over the layers, for ``v1`` the sum.
    """
    return PatchSimilarityEntropy(variant, bandwidth, points).per_image(layers)
