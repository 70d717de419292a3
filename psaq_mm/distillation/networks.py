"""What the algorithm needs of a network, an image store and a group of processes, without naming a library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor, nn

from ..generation import AttentionTokens

Outputs = Callable[[nn.Module, Tensor], list[Tensor]]


class PixelUnits(Protocol):
    """The map between the units that images are optimized in, z, and what the network gets, x."""

    lower: Tensor
    upper: Tensor

    def to_network(self, images: Tensor) -> Tensor:
        """From z to x, ``(batch, channels, H, W)``."""

    def from_network(self, images: Tensor) -> Tensor:
        """From x to z, ``(batch, channels, H, W)``."""


class Taps(Protocol):
    """Collects the patch tokens of a network's attention layers while it is entered."""

    def __enter__(self) -> Taps: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def take(self) -> list[AttentionTokens]:
        """The tokens since the last call, in the order of execution."""


@dataclass(frozen=True)
class Teacher:
    """The full-precision network.

    Attributes:
        model: In eval mode; its parameters need no gradient.
        outputs: The backbone's outputs, for generator steps without a student.
        taps: Makes taps on its attention layers.
        units: Of its images.
    """

    model: nn.Module
    outputs: Outputs
    taps: Callable[[], Taps]
    units: PixelUnits

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.model.parameters()).device


class Processes:
    """A group of processes that share a run; this one is a group of one.

    Attributes:
        rank: Number of this process.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def average(self, gradients: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""

    def sum(self, value: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in place."""

    def gather(self, images: list[Tensor]) -> Tensor:
        """All processes' images on the CPU, in the order of their ranks, ``(count, channels, H, W)``."""
        return torch.cat([part.detach().cpu() for part in images])


class Events:
    """Receives the progress of a stage; the methods of this class do nothing."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def step(self, stage: str, step: int, save: Callable[[], None] | None = None, due: bool = False) -> None:
        """A step is done.

        Args:
            stage: Name of the stage.
            step: How many of its steps are done.
            save: Saves the state as it is after this step; None where the stage cannot continue from it.
            due: Whether the stage's save interval ends with this step.
        """

    def cycle(self, cycle: int, cycles: int, terms: dict[str, float]) -> None:
        """A teacher-student cycle is done; ``terms`` are its loss terms and gradient norms by name."""

    def save(self) -> None:
        """Save the state of the run."""

    def warn(self, message: str) -> None:
        """Report a skipped step or a smaller batch."""
