"""One line a cycle, and its scalars."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class CycleLogHook(Hook):
    """Logs a cycle's loss terms and gradient norms, and hands them to the visualiser (TensorBoard by config)."""

    def after_cycle(self, runner: Runner, cycle: int, cycles: int, terms: dict[str, float]) -> None:
        """Write the line and the scalars."""
        runner.logger.info(f"cycle {cycle}/{cycles}  " + "  ".join(f"{k}: {v:.4g}" for k, v in terms.items()))
        runner.visualizer.add_scalars(terms, step=cycle)
