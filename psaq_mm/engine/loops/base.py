"""What the stages share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_gather_object
from mmengine.runner import BaseLoop
from torch import Tensor

from ...distillation.image_generator import ImageGenerator
from ...errors import UsageError
from ...generation import SamplePool, initial_images
from ...models import pixel_units, try_image_size

if TYPE_CHECKING:
    from ..runner import DFQRunner


class StageLoop(BaseLoop):
    """A stage of the run. Stages touch no data set, so there is no dataloader.

    Args:
        runner: The runner, which holds teacher, student and pool.
    """

    runner: DFQRunner

    def __init__(self, runner: DFQRunner) -> None:
        super().__init__(runner, dataloader=None)

    def image_generator(self, options: dict[str, Any] | None) -> ImageGenerator:
        """A generator that draws from the run's own stream; its options as the recipe names them."""
        runner = self.runner
        return ImageGenerator(
            runner.teacher, runner.generator, runner.seed or 0, runner.logger.warning, **(options or {})
        )

    def new_images(self, count: int, size: tuple[int, int], start: str) -> Tensor:
        """Images to start from, as the network gets them, ``(count, channels, H, W)``."""
        units = pixel_units(self.runner.teacher)
        drawn = initial_images(count, size, units.lower, units.upper, self.runner.generator, start)
        return units.to_network(drawn)

    def gather(self, parts: list[Tensor]) -> Tensor:
        """All processes' images, in the order of their ranks."""
        own = [part.detach().cpu() for part in parts]
        # As objects: processes may hold different numbers of images.
        return torch.cat([part for one in all_gather_object(own) for part in one])

    def announce(self, stage: str, total: int) -> None:
        """Tell the hooks that a stage of so many steps begins."""
        self.runner.call_hook("before_stage", stage=stage, total=total)

    def advance(self, stage: str, step: int, save: Callable[[], None] | None = None, due: bool = False) -> None:
        """Tell the hooks that a step of the stage is done, and end here if the process was asked to.

        Args:
            stage: Its name.
            step: Which step is done.
            save: Saves the state as it is after this step, for stages that can go on from it.
            due: Whether the state is saved in any case; else only where the process was asked to end.

        Raises:
            Terminated: The process was asked to end.
        """
        if save is not None and due:
            save()
        self.runner.call_hook("after_stage_step", stage=stage, step=step)
        if save is not None and not due and self.runner.termination.requested:
            save()
        self.runner.termination.check()


def height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Both sides of images, of which one number may be given.

    Raises:
        UsageError: They are no one or two positive numbers.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UsageError(f"image_size {image_size!r} is no size: give height and width, or one number for both")
    return sides[0], sides[1]


class FillLoop(StageLoop):
    """A stage that fills the runner's pool with images.

    Args:
        runner: The runner.
        images: How many images.
        image_size: Height and width, or one number for both.

    Raises:
        UsageError: The backbone does not take images of this size.
    """

    def __init__(self, runner: DFQRunner, images: int = 32, image_size: int | tuple[int, int] = 224) -> None:
        super().__init__(runner)
        self.images = images
        self.image_size = height_and_width(image_size)
        try_image_size(runner.teacher, self.image_size)

    def fill(self, images: Tensor) -> SamplePool:
        """Put the images into the runner's pool."""
        self.runner.pool.add(images.detach().cpu(), tag="first")
        return self.runner.pool
