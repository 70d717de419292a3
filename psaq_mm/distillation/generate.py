"""Generation of the first samples: images that minimise ``L_PSE + a L_TV`` of the teacher, without a student."""

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
    """Draws initial images.

    Attributes:
        teacher: The network that the images are inputs of.
        generator: Random number generator of the run, on the CPU.
    """

    teacher: Teacher
    generator: torch.Generator

    def images(self, count: int, size: tuple[int, int], start: str) -> Tensor:
        """Draw initial images.

        Args:
            count: Number of images.
            size: Height and width.
            start: Name of the noise (:func:`psaq_mm.generation.initial_images`).

        Returns:
            ``(count, channels, H, W)``, as network inputs.
        """
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
    """Generate images in batches; the processes share the images.

    Args:
        source: Draws the initial images.
        generator: Optimizes the images.
        store: Stores finished images, so that a resumed run does not generate them again.
        count: Number of images over all processes.
        size: Height and width.
        start: Name of the noise to start from (:func:`psaq_mm.generation.initial_images`).
        batch_size: Images that are optimized together.
        steps: Adam steps of a batch.
        state: Updated after each batch and at the save interval; a resumed run passes its saved state.
        processes: The processes that share the run.
        events: Receives the progress.

    Returns:
        The images of all processes, ``(count, channels, H, W)``, on the CPU.
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
