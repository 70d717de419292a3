"""Base classes of the stages, which run the algorithm of :mod:`psaq_mm.distillation` in mmengine's runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, all_reduce_params, get_rank, get_world_size
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from ...distillation import Events, ImageGenerator, ImageSource, Processes
from ...errors import UsageError
from ...models import try_image_size
from ..run_state import RunState


class DistributedProcesses(Processes):
    """The processes of mmengine's launcher."""

    def __init__(self) -> None:
        self.rank, self.size = get_rank(), get_world_size()

    def average(self, gradients: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""
        all_reduce_params(gradients, op="mean")

    def sum(self, value: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in place."""
        all_reduce(value)

    def gather(self, images: list[Tensor]) -> Tensor:
        """Concatenate the images of all processes in order of rank, on the CPU."""
        own = [part.detach().cpu() for part in images]
        # Gathered as objects, because processes may have different numbers of images.
        return torch.cat([part for one in all_gather_object(own) for part in one])


class HookEvents(Events):
    """Passes the progress of a stage to the runner's hooks, and stops the run after SIGTERM.

    Args:
        runner: A :class:`psaq_mm.engine.runner.DFQRunner`.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def begin(self, stage: str, total: int) -> None:
        """Call the hooks before a stage."""
        self.runner.call_hook("before_stage", stage=stage, total=total)

    def step(self, stage: str, step: int, save: Callable[[], None] | None = None, due: bool = False) -> None:
        """Call the hooks after a step; save the state if it is due or SIGTERM was received.

        Raises:
            Terminated: SIGTERM was received.
        """
        if save is not None and due:
            save()
        self.runner.call_hook("after_stage_step", stage=stage, step=step)
        if save is not None and not due and self.runner.termination.requested:
            save()
        self.runner.termination.check()

    def cycle(self, cycle: int, cycles: int, terms: dict[str, float]) -> None:
        """Call the hooks after a cycle."""
        self.runner.call_hook("after_cycle", cycle=cycle, cycles=cycles, terms=terms)

    def save(self) -> None:
        """Save the state of the run."""
        self.runner.state.save()

    def warn(self, message: str) -> None:
        """Write a warning to the log."""
        self.runner.logger.warning(message)


class StageLoop(BaseLoop):
    """Base class of the stages; they have no dataloader.

    Args:
        runner: A :class:`psaq_mm.engine.runner.DFQRunner`; its ``state`` holds teacher, student and pool.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner, dataloader=None)
        self.state: RunState = runner.state
        self.events = HookEvents(runner)
        self.processes = DistributedProcesses()
        self.source = ImageSource(self.state.teacher, self.state.generator)

    def image_generator(self, options: dict[str, Any] | None) -> ImageGenerator:
        """An image generator with the options of the recipe, which uses the run's random number generator."""
        state = self.state
        return ImageGenerator(state.teacher, state.generator, state.seed, self.events.warn, **(options or {}))


def height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Convert an image size of the recipe to height and width.

    Raises:
        UsageError: It is neither a positive integer nor two of them.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UsageError(f"image_size {image_size!r} is no size: give height and width, or one number for both")
    return sides[0], sides[1]


class FillLoop(StageLoop):
    """Base class of the stages that fill the pool with images.

    Args:
        runner: The runner.
        images: Number of images.
        image_size: Height and width, or one number for both.

    Raises:
        UsageError: The backbone does not accept images of this size.
    """

    def __init__(self, runner: Runner, images: int = 32, image_size: int | tuple[int, int] = 224) -> None:
        super().__init__(runner)
        self.images = images
        self.image_size = height_and_width(image_size)
        try_image_size(self.state.teacher.model, self.image_size)

    def fill(self, images: Tensor) -> None:
        """Add the images to the pool."""
        self.state.pool.add(images.detach().cpu(), tag="first")
