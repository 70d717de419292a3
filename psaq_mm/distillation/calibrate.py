"""Calibration: the ranges of the student's quantizers and the rounding of its weights, from samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization import Rounding, calibrating, make_rounding
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

    Several processes share the batches where there are enough of them; ranges and Hessians are those of all. Where
    memory runs out, the pass starts again with smaller batches.

    Args:
        student: Quantized, on its device.
        images: ``(count, channels, H, W)``, as the network gets them.
        forward: Runs every quantizer of the student.
        batch_size: Images at a time.
        rounding: How weights are rounded once ranges are known; None for the nearest integers.
        micro_batch: How many images pass together; None to find out.
        processes: The processes that share the run.
        events: Receives the progress.

    Returns:
        The student.
    """
    processes, events = processes or Processes(), events or Events()
    rounding = rounding or make_rounding("nearest")
    batches = images.split(batch_size)
    shared = 1 < processes.size <= len(batches)
    if shared:
        batches = batches[processes.rank :: processes.size]
    passes: list[Callable[[nn.Module], AbstractContextManager[Any]]] = [partial(calibrating, across_processes=shared)]
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
    """Pass all batches through the student while it is observed, ``size`` images at a time."""
    device = next(student.parameters()).device
    with observe(student), torch.no_grad():
        for step, batch in enumerate(batches, done + 1):
            for part in batch.split(size):
                forward(student, part.to(device))
            events.step(STAGE, step)
