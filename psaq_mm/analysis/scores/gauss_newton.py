"""The error of the outputs to first order."""

from __future__ import annotations

from torch import Tensor

from .base import SCORES, GradientScore


@SCORES.register("gauss_newton")
class GaussNewton(GradientScore):
    """``|J d|^2``, the relative error of the outputs to first order.

    ``(v J d)^2`` has this mean over vectors v of random signs. The estimate from k vectors has a relative standard
    deviation of up to ``sqrt(2 / k)``.

    Example: g = [3, 1], d = [1, 0]: 9.
    """

    @staticmethod
    def value(gradient: Tensor, error: Tensor) -> Tensor:
        """The score for one vector, see :meth:`GradientScore.value`."""
        return (gradient.double() * error.double()).sum().square()
