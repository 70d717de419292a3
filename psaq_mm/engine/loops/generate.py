"""Generation of the first samples, or noise in their place, as stages of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor

from ...distillation import GenerateState, generate_images
from ...errors import UsageError
from ...models import backbone_of, check_image_size, image_channels
from ...models.checkpoint import read_checkpoint
from ...registry import LOOPS
from ...utils.atomic_files import save_tensors
from .base import FillLoop, height_and_width


@LOOPS.register_module()
class GenerateLoop(FillLoop):
    """Generate images from the teacher alone (:func:`psaq_mm.distillation.generate_images`).

    Args:
        runner: The runner.
        images: Number of images.
        image_size: Height and width, or one number for both.
        batch_size: Images per batch.
        steps: Adam steps for each batch.
        generator: The keys of :class:`psaq_mm.distillation.ImageGenerator`.
        start: Noise that the images start from: ``'white'`` (V1) or ``'fractal'``.
        samples: A file that shares the images between runs: it is read if it exists, else written.

    Raises:
        UsageError: A number is below 1, or the backbone does not accept images of this size.
    """

    def __init__(
        self,
        runner: Runner,
        images: int = 32,
        image_size: int | tuple[int, int] = 224,
        batch_size: int = 16,
        steps: int = 100,
        generator: dict[str, Any] | None = None,
        start: str = "fractal",
        samples: str | None = None,
    ) -> None:
        check_image_size(backbone_of(runner.teacher)[1], height_and_width(image_size))
        super().__init__(runner, images, image_size)
        if min(images, batch_size, steps) < 1:
            raise UsageError("images, batch_size and steps of GenerateLoop must be at least 1: correct dfq.generate")
        self.batch_size, self.steps, self.start = batch_size, steps, start
        self.generator = self.image_generator(generator)
        self.samples = Path(samples) if samples else None

    def run(self) -> None:
        """Fill the pool, from the shared file if it exists."""
        if self.samples is not None and self.samples.exists():
            self.fill(self.shared(self.samples))
            return
        images = generate_images(
            self.source,
            self.generator,
            self.state.images,
            self.images,
            self.image_size,
            self.start,
            self.batch_size,
            self.steps,
            self.state.generate,
            self.processes,
            self.events,
        )
        self.state.generate = GenerateState()
        if self.samples is not None and is_main_process():
            save_tensors({"state_dict": {"images": images}}, self.samples)
        self.fill(images)

    def shared(self, path: Path) -> Tensor:
        """Read the images that another run has written.

        Raises:
            UsageError: Their number or size differs from the recipe.
        """
        images = read_checkpoint(path)["state_dict"].get("images")
        wanted = (self.images, image_channels(backbone_of(self.state.teacher.model)[1]), *self.image_size)
        if images is None or tuple(images.shape) != wanted:
            held = "no images" if images is None else f"images of shape {tuple(images.shape)}"
            raise UsageError(f"{path} holds {held}, the recipe needs {wanted}: delete it or choose another file")
        return images


@LOOPS.register_module()
class NoiseLoop(FillLoop):
    """Fill the pool with noise, the baseline without optimization.

    Args:
        runner: The runner.
        images: Number of images.
        image_size: Height and width, or one number for both.
        start: ``'white'`` for Gaussian noise in ImageNet's normalised units, clamped to valid pixels;
            ``'fractal'`` for the noise that generation starts from.
    """

    def __init__(
        self, runner: Runner, images: int = 32, image_size: int | tuple[int, int] = 224, start: str = "white"
    ) -> None:
        super().__init__(runner, images, image_size)
        self.start = start

    def run(self) -> None:
        """Fill the pool."""
        self.fill(self.source.images(self.images, self.image_size, self.start))
