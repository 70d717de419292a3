"""Progress as calls of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class ReportHook(Hook):
    """Calls a function after every step of a stage.

    Args:
        report: Gets the stage (``'generate'``, ``'calibrate'``, ``'distill'``, ``'evaluate'``), the steps done and
            the steps in all.
    """

    def __init__(self, report: Callable[[str, int, int], None]) -> None:
        self.report, self.total = report, 0

    def before_stage(self, runner: Runner, stage: str, total: int) -> None:
        """Note how many steps a stage has."""
        self.total = total

    def after_stage_step(self, runner: Runner, stage: str, step: int) -> None:
        """A step of a stage is done."""
        self.report(stage, step, self.total)

    def after_test_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
        """A batch of an evaluation is done."""
        self.report("evaluate", batch_idx + 1, len(runner.test_dataloader))
