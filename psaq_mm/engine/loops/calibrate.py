"""Calibration as a stage of the run."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn

from ...distillation import MicroBatch, calibrate
from ...errors import GenerationError, QuantizationError, UsageError
from ...generation import RandomCrops
from ...models import calibration_function
from ...quantization import make_rounding
from ...registry import LOOPS
from .base import StageLoop


@LOOPS.register_module()
class CalibrateLoop(StageLoop):
    """Calibrate the student on the first images of the pool (:func:`psaq_mm.distillation.calibrate`).

    Args:
        runner: The runner.
        images: Number of images; the whole pool if it has fewer.
        batch_size: Images per batch.
        rounding: The rounding method of weights, ``'nearest'`` or ``'gptq'``, or a mapping of its ``type`` and options
            (:func:`psaq_mm.quantization.make_rounding`).
        crops: Random crops of every image, on which the student is calibrated too
            (:class:`psaq_mm.generation.RandomCrops`).

    Raises:
        UsageError: The rounding method or an option of it is unknown, or ``crops`` is not a number of crops.
    """

    def __init__(
        self,
        runner: Runner,
        images: int = 32,
        batch_size: int = 8,
        rounding: str | dict[str, Any] = "nearest",
        crops: int = 0,
    ) -> None:
        super().__init__(runner)
        try:
            self.rounding = make_rounding(rounding)
            self.crops = RandomCrops(crops)
        except (QuantizationError, GenerationError) as error:
            raise UsageError(f"calibrate.{error}") from None
        self.images, self.batch_size = images, batch_size
        self.micro_batch = MicroBatch(self.events.warn)

    def run(self) -> nn.Module:
        """Calibrate the student."""
        state, runner = self.state, self.runner
        # Not the run's generator: the images of the later stages do not depend on the crops.
        seeded = torch.Generator().manual_seed(state.seed)
        return calibrate(
            state.student,
            self.crops(state.pool.first(self.images), seeded),
            calibration_function(runner.scope, state.teacher.model),
            self.batch_size,
            self.rounding,
            self.micro_batch,
            self.processes,
            self.events,
        )
