"""The base class of distances and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ....errors import GenerationError
from ....utils.registry import Registry


class LevelDistance(ABC):
    """A distance between one level of the teacher's and the student's outputs.

    It is a mean over the batch, so that micro-batches weighted by their size add up to the whole batch, and it is
    differentiable in both arguments.

    Args:
        temperature: Temperature of a softmax, positive; ignored by forms without one.

    Attributes:
        name: The name that a config selects the class by.
        normalized: Whether the distance grows with the scale of the outputs; then
            :class:`psaq_mm.generation.Discrepancy` divides it by the level's constant ``c_l``.
    """

    name: ClassVar[str]
    normalized: ClassVar[bool] = False

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    @abstractmethod
    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The distance, a scalar, 0 for equal outputs.

        Args:
            teacher: Shape ``(batch, channels, ...)``.
            student: The same shape.
        """


DISTANCES: Registry[LevelDistance] = Registry("form", GenerationError, __package__ or "")
