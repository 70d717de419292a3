"""Mean absolute error."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import DISTANCES, LevelDistance


@DISTANCES.register("mae")
class MeanAbsoluteError(LevelDistance):
    """``mean |t - s|`` over all elements, for feature maps.

    Example: t = [2, -2], s = [1, -2]: 0.5.
    """

    normalized = True

    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The distance, a scalar; see :meth:`LevelDistance.__call__`."""
        return F.l1_loss(student, teacher)
