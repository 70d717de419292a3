"""Errors of host libraries that keep a model of theirs from running, corrected where that is possible.

onedl-mmdetection 3.5: the decoder of DINO encodes the four coordinates of a query by ``width`` numbers each, instead
of ``width / 2`` as in all versions before. Grounding DINO inherits this, but its layer that reads them has the old
size, so that no image passes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

COORDINATES = 4
_DECODER = "mmdet.models.layers.transformer.grounding_dino_layers"


def repair_hosts() -> None:
    """Correct the classes of those host libraries that are imported. A second call does nothing."""
    decoder: Any = getattr(sys.modules.get(_DECODER), "GroundingDinoTransformerDecoder", None)
    if decoder is None or getattr(decoder, "psaq_mm_repaired", False):
        return
    init = decoder._init_layers

    def _init_layers(self: Any) -> None:
        init(self)
        # of this object, so that it is pickled with it
        self.ref_point_head.register_forward_pre_hook(narrow_encoding)

    decoder._init_layers, decoder.psaq_mm_repaired = _init_layers, True


def narrow_encoding(head: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Make the encoding of queries as long as a layer expects it; one that fits stays as it is.

    Coordinate ``x`` is encoded as ``sin(x / t_0), cos(x / t_0), sin(x / t_1), cos(x / t_1), ...`` with
    ``t_k = 10000 ** (2 k / n)``, ``n`` numbers in all. Every second pair of them is the encoding by ``n / 2`` numbers.

    Args:
        head: The host's ``MLP``.
        args: Its input, ``(images, queries, 4 * n)``.
    """
    (encoded,) = args
    if encoded.shape[-1] != 2 * head.layers[0].in_features:
        return None
    pairs: Tensor = torch.unflatten(encoded, -1, (COORDINATES, -1, 2))
    return (pairs[..., ::2, :].flatten(-3),)
