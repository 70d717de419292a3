"""The patch-similarity entropy loss ``L_PSE``, which makes the patches of an image differ.

For attention layer l and image b, let ``z_i`` be the attention output of token i before the output projection,
averaged over heads, and ``g_ij`` the cosine similarity of two tokens of the same window::

    g_ij  = <z_i, z_j> / (|z_i| |z_j|)
    f(t)  = density of the similarities g_ij at t, -1 <= t <= 1
    H_lb  = - integral f(t) log f(t) dt
    L_PSE = - reduce_l  mean_b  H_lb

Natural images show a foreground and a background, hence a wide range of similarities and a high entropy; noise does
not. The variants differ in the pairs, the density and the reduction over layers:

============  ===================================  ====================================  ======
variant       density f                            pairs                                 reduce
============  ===================================  ====================================  ======
``v1``        kernels of width 0.01, 10 points     all i, j without token 0              sum
``kde``       kernels of width 1/32, 65 points     i < j that may attend to each other   mean
``gaussian``  Gaussian of the same variance        i < j that may attend to each other   mean
============  ===================================  ====================================  ======

Sources: PSAQ-ViT (V1, Li et al., ECCV 2022) for the metric and ``v1``; PSAQ-ViT V2 (Li et al., TNNLS 2023) keeps the
metric and publishes no constants; MaskAQ (ICML 2026) for the Gaussian. The choice of pairs, the fixed grid, the mean
over layers and the defaults of ``kde`` and ``gaussian`` are ours. Each variant is a class in
:mod:`psaq_mm.generation.losses.entropies`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import GenerationError
from ..tokens import AttentionTokens
from .entropies import ENTROPIES
from .entropies.v1 import V1_BANDWIDTH, V1_OFFSET, V1_POINTS

__all__ = ["V1_BANDWIDTH", "V1_OFFSET", "V1_POINTS", "PatchSimilarityEntropy"]


class PatchSimilarityEntropy(nn.Module):
    """The loss ``L_PSE = - reduce_l mean_b H_lb``; the module's docstring has the formulas.

    Example: one image and one layer with the similarities 0, 1, 0: the variance is 2/9 and the loss of variant
    ``gaussian`` is -0.667. With equal similarities it is 5.49, the maximum.

    Args:
        variant: Name of a registered :class:`EntropyVariant`: ``"gaussian"``, ``"kde"`` or ``"v1"``.
        bandwidth: Kernel bandwidth of ``kde`` and ``v1``, in units of similarity. Default: the spacing of the grid
            for ``kde`` (1/32 at 65 points), 0.01 for ``v1``.
        points: Number of grid points of ``kde`` (default 65) and ``v1`` (default 10).
        **options: Further arguments of the variant.

    Raises:
        GenerationError: The variant is unknown, or does not accept the bandwidth or the points.
    """

    def __init__(
        self,
        variant: str = "gaussian",
        bandwidth: float | None = None,
        points: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        # Variants without a kernel need not accept these two.
        kernel = {"bandwidth": bandwidth, "points": points}
        options |= {key: value for key, value in kernel.items() if value is not None}
        self.variant = ENTROPIES.get(variant)(**options)

    def forward(self, layers: Sequence[AttentionTokens]) -> Tensor:
        """The loss, a scalar to minimise.

        Args:
            layers: Tokens of all attention layers in one forward pass.

        Raises:
            GenerationError: See :meth:`per_layer`.
        """
        return -self.per_image(layers).mean()

    def per_image(self, layers: Sequence[AttentionTokens]) -> Tensor:
        """The entropy of each image, reduced over the layers.

        Args:
            layers: Tokens of all attention layers in one forward pass.

        Returns:
            Shape ``(batch,)``, in nats.

        Raises:
            GenerationError: See :meth:`per_layer`.
        """
        return self.variant.reduce(self.per_layer(layers))

    def per_layer(self, layers: Sequence[AttentionTokens]) -> Tensor:
        """The entropy ``H_lb`` of each image in each layer of :meth:`usable`.

        Args:
            layers: Tokens of all attention layers in one forward pass.

        Returns:
            Shape ``(L, batch)``, in nats.

        Raises:
            GenerationError: No layer has two pairs, or the layers' batch sizes differ.
        """
        usable = self.usable(layers)
        if not usable:
            raise GenerationError("no attention layer has two comparable pairs of tokens: check the taps and regions")
        if len({layer.tokens.shape[0] for layer in usable}) > 1:
            raise GenerationError("the layers' batch sizes differ: pass the tokens of one forward pass")
        return torch.stack([self._entropy(layer) for layer in usable])

    def usable(self, layers: Sequence[AttentionTokens]) -> list[AttentionTokens]:
        """The layers with at least two pairs; with fewer, similarities have no distribution.

        The pairs depend on the windows and regions of a layer, not on the image, so a layer is usable for all images
        or for none.
        """
        return [layer for layer in layers if self.variant.pair_count(layer) >= 2]

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return self.variant.extra_repr()

    def _entropy(self, layer: AttentionTokens) -> Tensor:
        # Without autocast: half precision does not distinguish similarities of 0.99 and 0.991.
        with torch.autocast(layer.tokens.device.type, enabled=False):
            return self.variant.entropy(layer)
