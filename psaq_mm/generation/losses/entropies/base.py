"""The base classes of entropy estimators and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ....errors import GenerationError
from ....utils.registry import Registry
from ...tokens import AttentionTokens


class EntropyVariant(ABC):
    """Estimates the entropy of one layer's patch similarities, image by image.

    The methods here treat the comparable pairs i < j of a layer without its class token, and average over layers.

    Args:
        bandwidth: Kernel bandwidth; only for kernel density estimates.
        points: Number of grid points; only for kernel density estimates.

    Attributes:
        name: The name that a config selects the class by.

    Raises:
        GenerationError: A bandwidth or points are given.
    """

    name: ClassVar[str]

    def __init__(self, bandwidth: float | None = None, points: int | None = None) -> None:
        if bandwidth is not None or points is not None:
            raise GenerationError(
                f"variant {self.name!r} has no bandwidth and no points: leave them out or choose 'kde'"
            )

    @abstractmethod
    def entropy(self, layer: AttentionTokens) -> Tensor:
        """The entropy of each image in one layer, in nats.

        Args:
            layer: Tokens of a layer with at least two pairs.

        Returns:
            Shape ``(batch,)``.
        """

    def pair_count(self, layer: AttentionTokens) -> int:
        """M, the number of similarities per image that enter the entropy of a layer."""
        return layer.patches().pair_count()

    def reduce(self, entropies: Tensor) -> Tensor:
        """Reduces the entropies of all layers, shape ``(L, batch)``, to one per image, shape ``(batch,)``: the mean."""
        return entropies.mean(0)

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"variant={self.name!r}"


ENTROPIES: Registry[EntropyVariant] = Registry("variant", GenerationError, __package__ or "")


class KernelVariant(EntropyVariant):
    """An entropy from a Gaussian kernel density estimate on a grid.

    Args:
        bandwidth: Standard deviation ``h`` of the kernel, in units of similarity.
        points: Number of grid points.

    Raises:
        GenerationError: Fewer than two points, or a bandwidth that is not positive.
    """

    def __init__(self, bandwidth: float, points: int) -> None:
        super().__init__()
        if points < 2:
            raise GenerationError(f"{points} grid points are too few: give at least 2")
        if not bandwidth > 0:
            raise GenerationError(f"bandwidth {bandwidth} is not positive: give a width in units of similarity")
        self.bandwidth, self.points = bandwidth, points

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"{super().extra_repr()}, bandwidth={self.bandwidth:g}, points={self.points}"
