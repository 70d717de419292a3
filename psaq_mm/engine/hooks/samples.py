"""Files and pictures of the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from ...registry import HOOKS
from ...utils.atomic_files import save_tensors, save_with
from ...visualization.samples import samples_picture


@HOOKS.register_module()
class SamplesHook(Hook):
    """Saves the pool as ``samples.pth`` and its newest images as ``samples.png``, and adds them to the visualizer.

    Args:
        images: Number of images in the picture.
        interval: Cycles between two pictures for the visualizer.
    """

    def __init__(self, images: int = 16, interval: int = 1) -> None:
        self.images, self.interval = images, interval

    def after_stage(self, runner: Runner, stage: str, **_: Any) -> None:
        """Save after the stages ``generate`` and ``distill``."""
        if stage in ("generate", "distill"):
            self.save(runner, runner.state.distill.cycle)

    def after_cycle(self, runner: Runner, cycle: int, **_: Any) -> None:
        """Add the picture of a cycle to the visualizer."""
        if cycle % self.interval == 0:
            runner.visualizer.add_image("samples", self.grid(runner), step=cycle)

    def grid(self, runner: Runner) -> np.ndarray:
        """The picture of the newest images, ``(H, W, 3)`` uint8."""
        return samples_picture(runner.pool.newest[: self.images], runner.teacher)

    def save(self, runner: Runner, step: int) -> None:
        """Write both files atomically, and add the picture to the visualizer."""
        grid = self.grid(runner)
        runner.visualizer.add_image("samples", grid, step=step)
        if is_main_process():
            save_tensors({"state_dict": {"images": runner.pool.images}}, runner.folder / "samples.pth")
            save_with(lambda path: Image.fromarray(grid).save(path), runner.folder / "samples.png")
