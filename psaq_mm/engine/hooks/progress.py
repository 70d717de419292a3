"""Progress bars with rate and remaining time."""

from __future__ import annotations

import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...registry import HOOKS

TITLES = {
    "generate": "generating images",
    "calibrate": "calibrating",
    "distill": "teacher-student cycle",
    "evaluate": "evaluating",
    "analyze": "measuring sensitivities",
    "latency": "timing layers",
}


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows a bar on a terminal or in a notebook; elsewhere a line every ``seconds`` and at the end of a stage.

    Args:
        seconds: Seconds between two lines.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._stage, self._total, self._start, self._said = "", 0, 0.0, 0.0

    def before_stage(self, runner: Runner, stage: str, total: int) -> None:
        """Open the bar of a stage."""
        self._close()
        self._stage, self._total = stage, total
        self._start = self._said = time.monotonic()
        if not is_main_process() or not runner.shows_progress:
            return
        if self.console.is_terminal or self.console.is_jupyter:
            rate = TextColumn("{task.fields[rate]}")
            columns = [
                TextColumn("{task.description:22}"),
                BarColumn(),
                MofNCompleteColumn(),
                rate,
                TimeRemainingColumn(),
            ]
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task(TITLES.get(stage, stage), total=total, rate="")
            self._bar.start()

    def after_stage_step(self, runner: Runner, stage: str, step: int) -> None:
        """Advance the bar, or print a line."""
        now = time.monotonic()
        rate = step / max(now - self._start, 1e-6)
        shown = f"{rate:.1f}/s" if rate >= 1 else f"{1 / max(rate, 1e-6):.1f} s each"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, rate=shown)
        elif now - self._said >= self.seconds and is_main_process() and runner.shows_progress:
            self._said = now
            left = (self._total - step) / max(rate, 1e-6)
            self.console.print(f"  {TITLES.get(stage, stage)}: {step}/{self._total}, {shown}, {left:.0f} s left")

    def after_stage(self, runner: Runner, stage: str, **_: Any) -> None:
        """Close the bar and print the duration."""
        if self._start and stage == self._stage and is_main_process() and runner.shows_progress:
            self._close()
            seconds = time.monotonic() - self._start
            self.console.print(f"  {TITLES.get(stage, stage)}: {self._total} steps in {seconds:.0f} s")
        self._start = 0.0

    def before_test(self, runner: Runner) -> None:
        """Open the bar of an evaluation."""
        self.before_stage(runner, "evaluate", len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
        """Advance the bar by a batch."""
        self.after_stage_step(runner, "evaluate", batch_idx + 1)

    def after_test(self, runner: Runner) -> None:
        """Close the bar of an evaluation."""
        self.after_stage(runner, "evaluate")

    def after_run(self, runner: Runner) -> None:
        """Close a bar that is still open."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
