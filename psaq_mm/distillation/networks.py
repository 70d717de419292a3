"""Interfaces between the algorithm and a library: networks, pixel units, taps, processes and events."""

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
    """The linear map between the units z, in which images are optimized, and network inputs x."""

    @property
    def lower(self) -> Tensor:
        """The smallest valid z of each channel, ``(channels,)``."""

    @property
    def upper(self) -> Tensor:
        """The largest valid z of each channel, ``(channels,)``."""

    def to_network(self, images: Tensor) -> Tensor:
        """From z to x, ``(batch, channels, H, W)``."""

    def from_network(self, images: Tensor) -> Tensor:
        """From x to z, ``(batch, channels, H, W)``."""


class Taps(Protocol):
    """A context that collects the patch tokens of a network's attention layers."""

    def __enter__(self) -> Taps: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def take(self) -> list[AttentionTokens]:
        """Return the tokens collected since the last call, in order of execution, and clear them."""


@dataclass(frozen=True)
class Teacher:
    """The full-precision network.

    Attributes:
        model: The network in eval mode; its parameters need no gradient.
        outputs: Computes the backbone's outputs, for generator steps without a student.
        taps: Creates taps on the attention layers.
        units: The pixel units of its images.
    """

    model: nn.Module
    outputs: Outputs
    taps: Callable[[], Taps]
    units: PixelUnits

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.model.parameters()).device


class Processes:
    """The processes that share a run; this class stands for a single process.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    def average(self, gradients: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""

    def sum(self, value: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in place."""

    def gather(self, images: list[Tensor]) -> Tensor:
        """Concatenate the images of all processes in order of rank, on the CPU, ``(count, channels, H, W)``."""
        return torch.cat([part.detach().cpu() for part in images])


class Events:
    """Receives the progress of a stage; the methods of this class do nothing."""

    def begin(self, stage: str, total: int) -> None:
        """Called when a stage of ``total`` steps begins."""

    def step(self, stage: str, step: int, save: Callable[[], None] | None = None, due: bool = False) -> None:
        """Called after each step.

        Args:
            stage: Name of the stage.
            step: Number of steps done.
            save: Saves the state after this step; None if the stage cannot resume from this step.
            due: Whether the save interval of the stage ends with this step.
        """

    def cycle(self, cycle: int, cycles: int, terms: dict[str, float]) -> None:
        """Called after each teacher-student cycle; ``terms`` are its loss terms and gradient norms by name."""

    def save(self) -> None:
        """Save the state of the run."""

    def warn(self, message: str) -> None:
        """Report a skipped step or a smaller batch."""
