"""Ranges of the student's quantizers, from the pool's images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ...models import calibration_function
from ...quantization import calibrating
from ...registry import LOOPS
from .base import StageLoop

if TYPE_CHECKING:
    from ..runner import DFQRunner


@LOOPS.register_module()
class CalibrateLoop(StageLoop):
    """Run the first images of the pool through the student and set every range.

    Args:
        runner: The runner.
        images: How many images; all that the pool holds where it holds fewer.
        batch_size: How many at a time.
    """

    def __init__(self, runner: DFQRunner, images: int = 32, batch_size: int = 8) -> None:
        super().__init__(runner)
        self.images, self.batch_size = images, batch_size

    def run(self) -> nn.Module:
        """Calibrate the student."""
        runner = self.runner
        forward = calibration_function(runner.scope, runner.teacher)
        batches = runner.pool.images[: self.images].split(self.batch_size)
        self.announce("calibrate", len(batches))
        with calibrating(runner.student), torch.no_grad():
            for step, batch in enumerate(batches, 1):
                forward(runner.student, batch.to(runner.device))
                self.advance("calibrate", step)
        return runner.student
