"""Cosine distance over channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import DISTANCES, LevelDistance


@DISTANCES.register("cosine")
class CosineDistance(LevelDistance):
    """``1 - cos(t, s)`` over the channels, averaged over batch and positions; in [0, 2].

    Example: t = [1, 0], s = [0, 3]: 1.
    """

    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The distance, a scalar; see :meth:`LevelDistance.__call__`."""
        return 1 - F.cosine_similarity(teacher, student, dim=1).mean()
