"""The entropy of a Gaussian with the variance of the similarities (MaskAQ, ICML 2026)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...tokens import AttentionTokens
from ..pairs import pair_variance
from ..similarity import gram_variance, unit_tokens
from .base import ENTROPIES, EntropyVariant

VARIANCE_EPS = 1e-6


@ENTROPIES.register("gaussian")
class GaussianEntropy(EntropyVariant):
    """``H = 0.5 log(2 pi e (var(g) + 1e-6))`` over the comparable pairs of one image.

    The variance is computed without an N x N matrix where all pairs of a group are comparable and there are more tokens
    than channels (:func:`gram_variance`), otherwise in blocks of pairs (:func:`pair_variance`).

    Example: the similarities 0, 1, 0 have variance 2/9 and entropy 0.667. Equal similarities have entropy -5.49, the
    minimum.
    """

    def entropy(self, layer: AttentionTokens) -> Tensor:
        """The entropy of each image, shape ``(batch,)``; see :meth:`EntropyVariant.entropy`."""
        patches = layer.patches()
        units = unit_tokens(patches.tokens)
        count, width = units.shape[2:]
        if patches.regions is None and count > width:
            variance = gram_variance(units)
        else:
            variance = pair_variance(units, patches.regions)
        return 0.5 * torch.log(2 * math.pi * math.e * (variance + VARIANCE_EPS))
