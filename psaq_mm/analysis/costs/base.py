"""The base class of costs, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ...errors import UsageError
from ...utils.registry import Registry

FLOAT_BITS = 32
Key = tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        scores: The sensitivity of each tensor at each of its widths, by layer and tensor.
        parameters: Number of values of each weight, by layer and tensor.
        operations: Multiplications of each layer.
        times: Seconds of each layer in an engine: ``'32'`` in floating point, ``'8'`` in integers of at most 8 bits,
            which is missing where the engine has no such layer.
    """

    scores: Mapping[Key, Mapping[int, float]]
    parameters: Mapping[Key, int]
    operations: Mapping[str, int] = field(default_factory=dict)
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def operands(self, layer: str) -> tuple[Key, Key] | None:
        """The two tensors that a layer multiplies; None if one of them was not measured."""
        for names in (("weight", "input"), ("left", "right")):
            first, second = ((layer, name) for name in names)
            if first in self.scores and second in self.scores:
                return first, second
        return None


@dataclass(frozen=True)
class Option:
    """Bit widths of the tensors of one layer.

    Attributes:
        bits: Bits by layer and tensor; :data:`FLOAT_BITS` for floating point.
        cost: What they cost, in the unit of the budget.
        score: The sum of their sensitivities.
    """

    bits: Mapping[Key, int]
    cost: float
    score: float


@dataclass(frozen=True)
class Choice:
    """The options for one layer or tensor, of which one is taken.

    Attributes:
        options: At least one.
        whole: The cost in float32.
    """

    options: Sequence[Option]
    whole: float


class Cost(ABC):
    """A cost of a model that depends on the bits of its tensors.

    Attributes:
        name: The name by which it is selected.
        tensors: The kinds of tensors whose sensitivities suffice, of ``'all'`` and ``'weights'``.
        advice: What to do where a budget is below the least that is possible.
    """

    name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]] = ("all",)
    advice: ClassVar[str] = "raise it or measure fewer bits"

    @classmethod
    def check(cls, share: float, widths: Iterable[int]) -> None:
        """Check before an analysis that its rows will allow a budget.

        Args:
            share: The budget as a share of the cost in float32.
            widths: The bit widths that it measures.

        Raises:
            UsageError: They will not.
        """
        bits = min(widths)
        least = cls.uniform(bits)
        if share < least:
            raise UsageError(
                f"budget {cls.name}={share:g} is below what {bits} bits everywhere need, {least:.4g}: "
                "raise it or measure fewer bits"
            )

    @classmethod
    def uniform(cls, bits: int) -> float:
        """The cost with so many bits in all tensors, as a share of that in float32; 0 if only a measurement tells."""
        return 0.0

    @classmethod
    @abstractmethod
    def choices(cls, measured: Measured) -> list[Choice]:
        """The options of each layer or tensor that this cost counts."""


COSTS: Registry[Cost] = Registry("budget", UsageError, __package__ or "")
