"""Saved states, from which a stopped run resumes."""

from __future__ import annotations

from typing import Any

from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class StateHook(Hook):
    """Saves the runner's state after each stage and every ``interval`` cycles; the processes wait for each other.

    Because they wait, and each keeps its last two states, all processes always have a state of the same point.

    Args:
        interval: Cycles between two saved states.
    """

    def __init__(self, interval: int = 1) -> None:
        self.interval = interval

    def after_stage(self, runner: Runner, stage: str, **_: Any) -> None:
        """Save after a stage."""
        self.save(runner)

    def after_cycle(self, runner: Runner, cycle: int, **_: Any) -> None:
        """Save after a cycle."""
        if cycle % self.interval == 0:
            self.save(runner)

    def save(self, runner: Runner) -> None:
        """Save in each process, then wait for all."""
        runner.state.save()
        barrier()
