"""Ranges of the student's quantizers and the rounding of its weights, from the pool's images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import Tensor, nn

from ...distillation.recovery import MicroBatch
from ...errors import UsageError
from ...models import calibration_function
from ...quantization import calibrating, quantized_linears, quantizers, recording_moments, round_weights
from ...registry import LOOPS
from .base import StageLoop

if TYPE_CHECKING:
    from ..runner import DFQRunner


ROUNDINGS = ("nearest", "gptq")


@LOOPS.register_module()
class CalibrateLoop(StageLoop):
    """Run the first images of the pool through the student, set every range and round the weights.

    Several processes share the batches; ranges and moments are those of all of them. Where memory runs out, a
    pass over them begins anew with smaller batches.

    Args:
        runner: The runner.
        images: How many images; all that the pool holds where it holds fewer.
        batch_size: How many at a time.
        rounding: How weights are rounded once ranges are known: ``'nearest'``, or ``'gptq'``, which spares the layers'
            outputs on these images (:func:`psaq_mm.quantization.gptq`).

    Raises:
        UsageError: The rounding is unknown.
    """

    def __init__(self, runner: DFQRunner, images: int = 32, batch_size: int = 8, rounding: str = "nearest") -> None:
        super().__init__(runner)
        if rounding not in ROUNDINGS:
            raise UsageError(f"calibrate.rounding {rounding!r} is unknown: use one of {', '.join(ROUNDINGS)}")
        self.images, self.batch_size, self.rounding = images, batch_size, rounding
        self.micro_batch = MicroBatch(runner.logger.warning)

    def run(self) -> nn.Module:
        """Calibrate the student."""
        runner = self.runner
        batches = runner.pool.first(self.images).split(self.batch_size)
        # Where there are fewer batches than processes, or their order counts, each takes all.
        ordered = any(quantizer.spec.range == "ema" for _, quantizer in quantizers(runner.student))
        shared = 1 < get_world_size() <= len(batches) and not ordered
        if shared:
            batches = batches[get_rank() :: get_world_size()]
        observers: list[Any] = [partial(calibrating, across_processes=shared)]
        if self.rounding == "gptq":
            observers.append(recording_moments)
        self.announce("calibrate", len(observers) * len(batches))
        seen: Any = None
        for done, observe in enumerate(observers):
            # Each pass by itself: what processes exchange at its end, they exchange once.
            one = partial(self.observe, observe, batches, done * len(batches))
            seen = self.micro_batch.run(self.batch_size, one)
        if self.rounding == "gptq":
            for layer in quantized_linears(runner.student) if shared else ():
                moment = seen.setdefault(layer, layer.weight.new_zeros([layer.in_features] * 2, dtype=torch.float64))
                all_reduce(moment)
            round_weights(seen)
        return runner.student

    def observe(self, observe: Any, batches: Sequence[Tensor], done: int, size: int) -> Any:
        """Pass the batches through the student, so many images at a time; gives what the observer yields."""
        runner = self.runner
        forward = calibration_function(runner.scope, runner.teacher)
        with observe(runner.student) as seen, torch.no_grad():
            for step, batch in enumerate(batches, done + 1):
                for part in batch.split(size):
                    forward(runner.student, part.to(runner.device))
                self.advance("calibrate", step)
        return seen
