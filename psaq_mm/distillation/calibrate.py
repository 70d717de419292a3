"""Calibration: set the ranges of the student's quantizers and round its weights, from samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization import QuantMatMul, Rounding, calibrating, equalizing, make_rounding
from .networks import Events, Outputs, Processes
from .recovery import MicroBatch

STAGE = "calibrate"


def calibrate(
    student: nn.Module,
    images: Tensor,
    forward: Outputs,
    batch_size: int,
    rounding: Rounding | None = None,
    micro_batch: MicroBatch | None = None,
    processes: Processes | None = None,
    events: Events | None = None,
) -> nn.Module:
    """Pass images through the student, set the range of each quantizer and round the weights.

    Where queries and keys are equalized or keys centered, a pass before that sets their ratios and centers.

    If there are at least as many batches as processes, each process passes its share, and ranges and Hessians are
    reduced over all processes. Otherwise each process passes all batches. If memory runs out, the pass is repeated with
    smaller batches.

    Args:
        student: The quantized network, on its device.
        images: ``(count, channels, H, W)``, as network inputs.
        forward: Runs every quantizer of the student.
        batch_size: Images per batch.
        rounding: The rounding method of the weights, applied after the ranges are set; None for nearest rounding.
        micro_batch: Limits the images per forward pass; None starts with whole batches.
        processes: The processes that share the run.
        events: Receives the progress.

    Returns:
        The student.
    """
    processes, events = processes or Processes(), events or Events()
    rounding = rounding or make_rounding("nearest")
    batches = torch.split(images, batch_size)
    shared = 1 < processes.size <= len(batches)
    if shared:
        batches = batches[processes.rank :: processes.size]
    passes: list[Callable[[nn.Module], AbstractContextManager[Any]]] = [partial(calibrating, across_processes=shared)]
    if any(isinstance(module, QuantMatMul) and module.equalizes for module in student.modules()):
        passes.insert(0, partial(equalizing, across_processes=shared))
    if rounding.needs_inputs:
        passes.append(rounding.collect)
    events.begin(STAGE, len(passes) * len(batches))
    micro_batch = micro_batch or MicroBatch(events.warn)
    for done, observe in enumerate(passes):
        # Retry each pass separately: its closing collective must run once.
        one = partial(run_pass, student, forward, observe, batches, done * len(batches), events)
        micro_batch.run(batch_size, one)
    if shared:
        rounding.all_reduce(processes.sum)
    rounding.apply(student)
    return student


def run_pass(
    student: nn.Module,
    forward: Outputs,
    observe: Callable[[nn.Module], AbstractContextManager[Any]],
    batches: Sequence[Tensor],
    done: int,
    events: Events,
    size: int,
) -> None:
    """Pass all batches through the student in the context ``observe``.

    Args:
        student: The quantized network.
        forward: Runs every quantizer of the student.
        observe: Makes the context that collects ranges or Hessians.
        batches: ``(batch, channels, H, W)`` each.
        done: Steps of the stage before this pass.
        events: Receives the progress.
        size: Images per forward pass.
    """
    device = next(student.parameters()).device
    with observe(student), torch.no_grad():
        for step, batch in enumerate(batches, done + 1):
            for part in torch.split(batch, size):
                forward(student, part.to(device))
            events.step(STAGE, step)
