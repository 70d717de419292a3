"""The student step: train weights and activation ranges to minimise ``D(teacher(x), student(x))`` on samples x."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import GenerationError, NonFiniteLossError
from ..generation import Discrepancy
from ..quantization import freeze, relative_groups, trainable_groups, unfreeze
from .networks import Outputs, Processes
from .recovery import Backoff, MicroBatch

RATES = {"weight": 3e-3, "bias": 5e-4, "scale": 1e-3}


class StudentTrainer:
    """Adam on the student's quantized weights, biases and activation ranges.

    One step on a batch: ``theta <- theta - Adam(grad_theta D(T(x), S_theta(x)))``. Learning rates are relative to the
    magnitude of each tensor (:func:`psaq_mm.quantization.relative_groups`) and decay
    by ``(1 + cos(pi t / total)) / 2``.
    A step with a non-finite discrepancy or gradient is skipped and halves the rates (:class:`.recovery.Backoff`).

    Args:
        teacher: The full-precision network.
        student: The quantized network, calibrated.
        outputs: The outputs that both networks are compared on.
        discrepancy: The discrepancy D.
        total: Number of student steps of the whole run, for the decay.
        relative_lr: Rates of ``weight``, ``bias`` and ``scale``; the defaults are :data:`RATES`.
        micro_batch: Limits the images per forward pass.
        processes: The processes over which gradients are averaged.

    Raises:
        GenerationError: ``relative_lr`` has an unknown key.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        outputs: Outputs,
        discrepancy: Discrepancy,
        total: int,
        relative_lr: dict[str, float] | None = None,
        micro_batch: MicroBatch | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.teacher, self.student, self.outputs, self.discrepancy = teacher, student, outputs, discrepancy
        self.total, self.processes = total, processes or Processes()
        groups = relative_groups(student, checked_rates(relative_lr))
        self.optimizer = torch.optim.Adam([{**group, "base_lr": group["lr"]} for group in groups])
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.micro_batch = micro_batch or MicroBatch(lambda _: None)
        self.norm = 0.0

    def step(self, images: Tensor, number: int, backoff: Backoff) -> float | None:
        """Take one step.

        Args:
            images: ``(batch, channels, H, W)``, as network inputs.
            number: Number of student steps before this one, in the whole run.
            backoff: Counts skipped steps and scales the learning rates.

        Returns:
            The discrepancy before the step; None if the step was skipped.

        Raises:
            NonFiniteLossError: Too many steps in a row were not finite; the student keeps the weights of the last good
                step.
        """
        decay = 0.5 * (1 + math.cos(math.pi * (number / self.total)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * decay * backoff.scale
        loss = self.micro_batch.run(len(images), partial(self.differentiate, images))
        # Average before the check, so that all processes make the same decision.
        self.processes.average([p.grad for p in self.parameters if p.grad is not None])
        self.norm, value = gradient_norm(self.parameters), loss.clone()
        self.processes.sum(value)
        if not math.isfinite(self.norm) or not torch.isfinite(value):
            term = "gradient of the student discrepancy" if torch.isfinite(value) else "student discrepancy"
            backoff.failed(NonFiniteLossError(term, number + 1))
            return None
        backoff.passed()
        self.optimizer.step()
        return float(loss)

    def differentiate(self, images: Tensor, size: int) -> Tensor:
        """The discrepancy of a batch, ``size`` images per forward pass; its gradient is stored in the parameters."""
        total = torch.zeros((), device=images.device)
        self.optimizer.zero_grad()
        for part in torch.split(images, size):
            with torch.no_grad():
                reference = self.outputs(self.teacher, part)
            loss = len(part) / len(images) * self.discrepancy(reference, self.outputs(self.student, part))
            loss.backward()
            total += loss.detach()
        return total


def checked_rates(rates: dict[str, float] | None) -> dict[str, float]:
    """The given rates, with defaults for the missing keys.

    Raises:
        GenerationError: A key is unknown.
    """
    unknown = sorted(set(rates or {}) - set(RATES))
    if unknown:
        raise GenerationError(f"relative_lr has unknown keys {', '.join(unknown)}: known are {', '.join(RATES)}")
    return {**RATES, **(rates or {})}


def freeze_student(student: nn.Module) -> None:
    """Prepare the student for generator steps: cache its quantized weights and turn off gradients of parameters."""
    freeze(student)
    student.requires_grad_(False)


def unfreeze_student(student: nn.Module) -> None:
    """Prepare the student for student steps; the inverse of :func:`freeze_student`."""
    student.requires_grad_(True)
    unfreeze(student)
    train_only_quantized(student)


def train_only_quantized(student: nn.Module) -> None:
    """Turn on gradients of quantized layers' weights and biases and of activation ranges, and off all others."""
    trained = {id(p) for group in trainable_groups(student).values() for p in group}
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def gradient_norm(parameters: list[nn.Parameter]) -> float:
    """The L2 norm of the concatenated gradients; parameters without a gradient count as 0."""
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
