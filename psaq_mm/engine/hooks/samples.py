"""The samples as a tensor and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from PIL import Image
from torch import Tensor

from ...models import pixel_bounds, takes_rgb
from ...registry import HOOKS
from ...utils.atomic_files import save_tensors, save_with

if TYPE_CHECKING:
    from ..runner import DFQRunner


def image_grid(images: Tensor, lower: Tensor, upper: Tensor, columns: int = 8) -> np.ndarray:
    """Images side by side, ``(H, W, 3)`` uint8: normalised values back to [0, 255], two pixels between images.

    Images of one channel are grey, so is the mean of two; of more than three the first three are shown.
    """
    low, high = lower.view(1, -1, 1, 1), upper.view(1, -1, 1, 1)
    pixels = ((images - low) / (high - low) * 255).round().clamp(0, 255)
    grey = pixels.shape[1] < 3
    pixels = (pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1) if grey else pixels[:, :3]).to(torch.uint8)
    count, _, height, width = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = torch.full((3, rows * (height + 2) - 2, columns * (width + 2) - 2), 255, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).numpy()


@HOOKS.register_module()
class SamplesHook(Hook):
    """Saves the pool as ``samples.pth`` and its newest images as ``samples.png``, and shows the grid to the visualiser.

    Args:
        images: How many the picture shows.
        interval: How often, in cycles.
    """

    def __init__(self, images: int = 16, interval: int = 1) -> None:
        self.images, self.interval = images, interval

    def after_stage(self, runner: DFQRunner, stage: str, **_: Any) -> None:
        """Save after generation and at the end."""
        if stage in ("generate", "distil"):
            self.save(runner, runner.state.get("cycle", 0))

    def after_cycle(self, runner: DFQRunner, cycle: int, **_: Any) -> None:
        """Show the grid of a cycle."""
        if cycle % self.interval == 0:
            runner.visualizer.add_image("samples", self.grid(runner), step=cycle)

    def grid(self, runner: DFQRunner) -> np.ndarray:
        """The newest images."""
        lower, upper = pixel_bounds(runner.teacher)
        channels = list(range(len(lower)))
        if len(channels) == 3 and not takes_rgb(runner.teacher):
            channels.reverse()
        return image_grid(runner.pool.newest[: self.images, channels], lower[channels], upper[channels])

    def save(self, runner: DFQRunner, step: int) -> None:
        """Write both files, whole or not at all."""
        grid = self.grid(runner)
        runner.visualizer.add_image("samples", grid, step=step)
        if is_main_process():
            save_tensors({"state_dict": {"images": runner.pool.images}}, runner.folder / "samples.pth")
            save_with(lambda path: Image.fromarray(grid).save(path), runner.folder / "samples.png")
