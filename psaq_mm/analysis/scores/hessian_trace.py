"""The mean of the Hessian's diagonal times the squared error of quantization."""

from __future__ import annotations

from torch import Tensor

from .base import SCORES, GradientScore


@SCORES.register("hessian_trace")
class HessianTrace(GradientScore):
    """``tr(H) / n * |d|^2``, with the Gauss-Newton matrix ``H = J^T J`` of n values (Dong et al., *HAWQ-V2*, 2020).

    ``|J^T v|^2`` has the mean ``tr(H)`` over vectors v of random signs (Hutchinson's estimator). The score ignores in
    which direction the error points.

    Example: g = [3, 1], d = [1, 0]: 10 / 2 * 1 = 5.
    """

    @staticmethod
    def value(gradient: Tensor, error: Tensor) -> Tensor:
        """The score for one vector, see :meth:`GradientScore.value`."""
        return gradient.double().square().mean() * error.double().square().sum()
