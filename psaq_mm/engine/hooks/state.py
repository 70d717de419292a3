"""What a run needs to go on after it was stopped."""

from __future__ import annotations

from typing import Any

from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class StateHook(Hook):
    """Saves the runner's state after every stage and every ``interval`` cycles; all processes wait for each other.

    Each then has a state of this point until all have one of the next, so that they can go on together.

    Args:
        interval: In cycles.
    """

    def __init__(self, interval: int = 1) -> None:
        self.interval = interval

    def after_stage(self, runner: Runner, stage: str, **_: Any) -> None:
        """Save once a stage is done."""
        self.save(runner)

    def after_cycle(self, runner: Runner, cycle: int, **_: Any) -> None:
        """Save after a cycle."""
        if cycle % self.interval == 0:
            self.save(runner)

    def save(self, runner: Runner) -> None:
        """Save in every process before any goes on."""
        runner.state.save()
        barrier()
