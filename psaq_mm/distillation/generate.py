"""The first samples: batches of images made from patch similarity and the image prior alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..generation import ImageOptimizer, ImageStore, initial_images
from .generator_step import ImageGenerator
from .networks import Events, Processes, Teacher
from .state import GenerateState

STAGE = "generate"


@dataclass(frozen=True)
class ImageSource:
    """Draws new images for a network.

    Attributes:
        teacher: Whose units the images are in.
        generator: The run's random numbers, on the CPU.
    """

    teacher: Teacher
    generator: torch.Generator

    def images(self, count: int, size: tuple[int, int], start: str) -> Tensor:
        """Images to start from, as the network gets them, ``(count, channels, H, W)``."""
        units = self.teacher.units
        return units.to_network(initial_images(count, size, units.lower, units.upper, self.generator, start))


def generate_images(
    source: ImageSource,
    generator: ImageGenerator,
    store: ImageStore,
    count: int,
    size: tuple[int, int],
    start: str,
    batch_size: int,
    steps: int,
    state: GenerateState | None = None,
    processes: Processes | None = None,
    events: Events | None = None,
) -> Tensor:
    """Optimize images in batches; several processes share them.

    Args:
        source: Draws the images to start from.
        generator: Takes the steps.
        store: Keeps finished images, so that a stopped run continues behind them.
        count: Images over all processes.
        size: Height and width.
        start: Name of the start (:func:`psaq_mm.generation.initial_images`).
        batch_size: Images that are optimized together.
        steps: Adam steps of a batch.
        state: Updated while batches are made; a stopped run continues from it.
        processes: The processes that share the run.
        events: Receives the progress.

    Returns:
        All processes' images, ``(count, channels, H, W)``, on the CPU.
    """
    state, processes, events = state or GenerateState(), processes or Processes(), events or Events()
    own = count // processes.size + (processes.rank < count % processes.size)
    sizes = [min(batch_size, own - first) for first in range(0, own, batch_size)]
    events.begin(STAGE, len(sizes) * steps)
    for index in range(len(state.done), len(sizes)):

        def after_step(optimizer: ImageOptimizer, index: int = index) -> None:
            def save() -> None:
                state.batch = generator.state(optimizer)
                events.save()

            step = optimizer.step_count
            events.step(STAGE, index * steps + step, save, due=step % generator.save_interval == 0)

        first = source.images(sizes[index], size, start)
        made = generator.optimize(first, steps, after_step, resume=state.batch).cpu()
        state.done.append([store.keep(image) for image in made])
        state.batch = None
    names = [name for batch in state.done for name in batch]
    return processes.gather([store.open(name)[None] for name in names])
