"""Progress as calls of a user's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class ReportHook(Hook):
    """Calls a function after every step of a stage.

    Args:
        report: Called with the name of the stage (``'generate'``, ``'calibrate'``, ``'distill'`` or ``'evaluate'``),
            the number of steps done and the number of steps of the stage.
    """

    def __init__(self, report: Callable[[str, int, int], None]) -> None:
        self.report, self.total = report, 0

    def before_stage(self, runner: Runner, stage: str, total: int) -> None:
        """Store the number of steps of a stage."""
        self.total = total

    def after_stage_step(self, runner: Runner, stage: str, step: int) -> None:
        """Report a step."""
        self.report(stage, step, self.total)

    def after_test_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
        """Report a batch of an evaluation."""
        self.report("evaluate", batch_idx + 1, len(runner.test_dataloader))
