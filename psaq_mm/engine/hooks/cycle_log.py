"""Log of the teacher-student cycles."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class CycleLogHook(Hook):
    """Logs loss terms and gradient norms of each cycle, and adds them to the visualizer as scalars."""

    def after_cycle(self, runner: Runner, cycle: int, cycles: int, terms: dict[str, float]) -> None:
        """Log one line and add the scalars."""
        runner.logger.info(f"cycle {cycle}/{cycles}  " + "  ".join(f"{k}: {v:.4g}" for k, v in terms.items()))
        runner.visualizer.add_scalars(terms, step=cycle)
