"""The base class of scores from gradients, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ...errors import UsageError
from ...utils.registry import Registry


class GradientScore(ABC):
    """Estimates how far the outputs move when one tensor is quantized, without quantizing it in a pass of its own.

    Let f be all outputs, divided so that the sum of their squares is their relative error
    (:func:`psaq_mm.analysis.gradients.gradient_scores`), d the error of the tensor by its quantization, and v a vector
    of random signs. A backward pass of ``v f`` gives the gradient ``g = J^T v`` of the tensor, with the Jacobian J.

    Attributes:
        name: The name by which it is selected.
    """

    name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def value(gradient: Tensor, error: Tensor) -> Tensor:
        """The score for one vector v; its mean over several vectors is the estimate.

        Args:
            gradient: g.
            error: d, of the same shape.

        Returns:
            A scalar in float64.
        """


SCORES: Registry[GradientScore] = Registry("score", UsageError, __package__ or "")
