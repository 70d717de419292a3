"""Images to start from: made from patch similarity, or plain noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.dist import get_rank, get_world_size, is_main_process
from torch import Tensor

from ...errors import UsageError
from ...generation import SampleOptimiser, SamplePool
from ...models import backbone_of, check_image_size, image_channels
from ...models.checkpoint import read_checkpoint
from ...registry import LOOPS
from ...utils.atomic_files import save_tensors
from .base import FillLoop, height_and_width

if TYPE_CHECKING:
    from ..runner import DFQRunner


@LOOPS.register_module()
class GenerateLoop(FillLoop):
    """Warm the images up with patch-similarity entropy and image prior alone; several processes share them.

    Args:
        runner: The runner.
        images: How many images.
        image_size: Height and width, or one number for both.
        batch_size: How many are optimised together.
        steps: Adam steps of a batch.
        generator: The keys of :class:`psaq_mm.distillation.image_generator.ImageGenerator`.
        start: What the images start from: ``'white'`` (V1) or ``'fractal'`` noise.
        samples: A file to share the images through: read where it exists, otherwise written.
    """

    def __init__(
        self,
        runner: DFQRunner,
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
            raise UsageError("images, batch_size and steps of GenerateLoop must be at least 1")
        self.batch_size, self.steps, self.start = batch_size, steps, start
        self.generator = self.image_generator(generator)
        self.samples = Path(samples) if samples else None

    def run(self) -> SamplePool:
        """Fill the pool, from the shared file where there is one."""
        if self.samples is not None and self.samples.exists():
            return self.fill(self.shared(self.samples))
        own = self.images // get_world_size() + (get_rank() < self.images % get_world_size())
        sizes = [min(self.batch_size, own - start) for start in range(0, own, self.batch_size)]
        self.announce("generate", len(sizes) * self.steps)
        partial = self.runner.state.get("generation", {"done": [], "batch": None})
        for index in range(len(partial["done"]), len(sizes)):
            start = self.new_images(sizes[index], self.image_size, self.start)
            made = self._batch(start, index, partial).cpu()
            partial["done"].append([self.runner.image_files.keep(image) for image in made])
            partial["batch"] = None
        names = [name for batch in partial["done"] for name in batch]
        images = self.gather([self.runner.image_files.open(name)[None] for name in names])
        self.runner.state.pop("generation", None)
        if self.samples is not None and is_main_process():
            save_tensors({"state_dict": {"images": images}}, self.samples)
        return self.fill(images)

    def shared(self, path: Path) -> Tensor:
        """The images that another run left.

        Raises:
            UsageError: They are not as many or as large as this recipe asks for.
        """
        images = read_checkpoint(path)["state_dict"].get("images")
        wanted = (self.images, image_channels(backbone_of(self.runner.teacher)[1]), *self.image_size)
        if images is None or tuple(images.shape) != wanted:
            held = "no images" if images is None else f"images of shape {tuple(images.shape)}"
            raise UsageError(f"{path} holds {held}, the recipe asks for {wanted}: delete it or choose another file")
        return images

    def _batch(self, start, index: int, partial: dict[str, Any]):
        def after(optimiser: SampleOptimiser) -> None:
            step = optimiser.step_count

            def save() -> None:
                self.runner.state["generation"] = {**partial, "batch": self.generator.state_dict(optimiser)}
                self.runner.save_state()

            self.advance("generate", index * self.steps + step, save, due=step % self.generator.save_interval == 0)

        return self.generator.optimise(start, self.steps, after, resume=partial["batch"])


@LOOPS.register_module()
class NoiseLoop(FillLoop):
    """Noise that nothing was learned for: the baseline that any method must beat.

    Args:
        runner: The runner.
        images: How many images.
        image_size: Height and width, or one number for both.
        start: ``'white'`` for Gaussian noise in ImageNet's normalised units, clamped to valid pixels;
            ``'fractal'`` for what generation starts from.
    """

    def __init__(
        self, runner: DFQRunner, images: int = 32, image_size: int | tuple[int, int] = 224, start: str = "white"
    ) -> None:
        super().__init__(runner, images, image_size)
        self.start = start

    def run(self) -> SamplePool:
        """Fill the pool."""
        return self.fill(self.new_images(self.images, self.image_size, self.start))
