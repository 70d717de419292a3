"""Range estimator ``'minmax'``."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from .base import Observer, register_observer


@register_observer("minmax")
class MinMaxObserver(Observer):
    """The smallest and the largest value over all batches."""

    def merge(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The smaller of the lower ends and the larger of the upper ends."""
        return torch.minimum(self.low, low), torch.maximum(self.high, high)

    def all_reduce(self) -> None:
        """Takes the smallest and the largest value over all processes."""
        self.low, self.high = self.low.clone(), self.high.clone()
        distributed.all_reduce(self.low, distributed.ReduceOp.MIN)
        distributed.all_reduce(self.high, distributed.ReduceOp.MAX)
