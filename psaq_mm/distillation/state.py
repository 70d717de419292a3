"""The state of the stages, from which a stopped run resumes.

``as_dict`` and ``from_dict`` convert to and from plain dictionaries of tensors and numbers, which
``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor


@dataclass
class BatchState:
    """State of a batch of images that is being optimized.

    Attributes:
        optimizer: The images and the state of their Adam.
        goals: Smoothness target of each image, or None for the target that all images share.
        balance: The factor b of the discrepancy.
    """

    optimizer: dict[str, Any]
    goals: Tensor | None
    balance: float


@dataclass
class GenerateState:
    """Progress of the stage ``generate``.

    Attributes:
        done: Names of the finished images, a list for each batch.
        batch: The batch that is being optimized, or None between batches.
    """

    done: list[list[str]] = field(default_factory=list)
    batch: BatchState | None = None


@dataclass
class CyclePart:
    """Progress within one teacher-student cycle.

    Attributes:
        generator: State of the images during generator steps, else None.
        terms: Loss terms of the last generator step; None until all generator steps are done.
        step: Number of student steps done.
        losses: Discrepancy of each student step.
    """

    generator: BatchState | None = None
    terms: dict[str, float] | None = None
    step: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass
class DistillState:
    """Progress of the stage ``distill``.

    Attributes:
        cycle: Number of cycles done.
        part: Progress within the next cycle, or None.
        optimizer: State of the student's Adam, or None before the first step.
        micro_batch: Images per forward pass; None for a whole batch.
        discrepancy: Constants of the discrepancy, computed on the first samples.
        backoff: Factor on the student's learning rates, halved by each skipped step.
        best: The student with the smallest discrepancy on the images that are held out: its state dict and that
            discrepancy; None without such images.
    """

    cycle: int = 0
    part: CyclePart | None = None
    optimizer: dict[str, Any] | None = None
    micro_batch: int | None = None
    discrepancy: dict[str, Any] | None = None
    backoff: float = 1.0
    best: dict[str, Any] | None = None


NESTED: dict[tuple[type, str], type] = {
    (GenerateState, "batch"): BatchState,
    (CyclePart, "generator"): BatchState,
    (DistillState, "part"): CyclePart,
}


def as_dict(state: Any) -> dict[str, Any]:
    """Convert a state to nested dictionaries, which share its tensors."""
    values = {one.name: getattr(state, one.name) for one in fields(state)}
    return {name: as_dict(value) if is_dataclass(value) else value for name, value in values.items()}


def from_dict(kind: type[Any], values: dict[str, Any]) -> Any:
    """Convert the result of :func:`as_dict` back to a state of class ``kind``."""
    nested = {name: inner for (outer, name), inner in NESTED.items() if outer is kind}
    return kind(
        **{
            name: from_dict(nested[name], value) if name in nested and value is not None else value
            for name, value in values.items()
        }
    )
