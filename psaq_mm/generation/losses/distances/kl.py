"""Kullback-Leibler divergence with a temperature (Hinton et al., 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import DISTANCES, LevelDistance


@DISTANCES.register("kl")
class KLDivergence(LevelDistance):
    """``T^2 KL(softmax(t / T) || softmax(s / T))`` over the channels, averaged over batch and positions; for logits.

    The factor ``T^2`` keeps the size of the gradient independent of the temperature.

    Example: T = 1, t = [0, log 3], s = [0, 0]: softmax 1/4, 3/4 against 1/2, 1/2, hence 1/4 log(1/2) + 3/4 log(3/2) =
    0.131.
    """

    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The distance, a scalar; see :meth:`LevelDistance.__call__`."""
        log_p = F.log_softmax(teacher / self.temperature, dim=1)
        log_q = F.log_softmax(student / self.temperature, dim=1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)  # (batch, channels, ...) -> (batch, ...)
        return self.temperature**2 * divergence.mean()
