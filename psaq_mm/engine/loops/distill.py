"""The teacher-student cycle as a stage of the run."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner
from torch import nn

from ...distillation import CycleSettings, TeacherStudentCycle
from ...errors import UsageError
from ...generation import Discrepancy
from ...models import output_function
from ...registry import LOOPS
from .base import StageLoop


@LOOPS.register_module(name=["DistillLoop", "CycleLoop"])  # CycleLoop: its name before version 0.2
class DistillLoop(StageLoop):
    """Run the teacher-student cycle (:class:`psaq_mm.distillation.TeacherStudentCycle`).

    Args:
        runner: The runner.
        generator: The keys of :class:`psaq_mm.distillation.ImageGenerator`.
        discrepancy: The keys of :class:`psaq_mm.generation.Discrepancy`.
        distill_on: The outputs that are compared: ``'backbone'``, ``'blocks'``, ``'neck'`` or ``'logits'``; None for
            ``'logits'`` of detectors and segmentors in scope ``model``, else ``'backbone'``.
        lr: No longer accepted; it held absolute rates of weights and biases in earlier versions.
        **settings: The fields of :class:`psaq_mm.distillation.CycleSettings`.

    Raises:
        UsageError: ``lr`` is given.
        GenerationError: A setting is not valid.
    """

    def __init__(
        self,
        runner: Runner,
        generator: dict[str, Any] | None = None,
        discrepancy: dict[str, Any] | None = None,
        distill_on: str | None = None,
        lr: dict[str, float] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(runner)
        if lr is not None:
            raise UsageError(
                "dfq.distill.lr is now relative_lr, relative to the size of each tensor: multiply its rate of weights "
                "by 30 and that of biases by 5, leave that of scales"
            )
        self.settings = CycleSettings(**settings)
        self.generator = self.image_generator(generator) if self.settings.generator_steps else None
        self.discrepancy = Discrepancy(**(discrepancy or {}))
        self.outputs = output_function(distill_on, self.state.teacher.model, runner.scope)
        self.cycle: TeacherStudentCycle | None = None

    def run(self) -> nn.Module:
        """Run the remaining cycles."""
        self.cycle = TeacherStudentCycle(
            self.source,
            self.state.student,
            self.state.pool,
            self.outputs,
            self.discrepancy,
            self.settings,
            self.generator,
            self.state.distill,
            self.processes,
            self.events,
        )
        return self.cycle.run()
