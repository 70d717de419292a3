"""Progress and images of a run that writes no files."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from torch import Tensor

from ..distillation import Events
from ..engine.hooks import ProgressHook


class ProgressEvents(Events):
    """Shows progress bars, or calls a function.

    Args:
        progress: True for bars, False for no output, or a function of the stage, the steps done and the total steps.
    """

    def __init__(self, progress: bool | Callable[[str, int, int], None]) -> None:
        self.report = progress if callable(progress) else None
        self.bars = ProgressHook() if progress is True else None
        self.run = SimpleNamespace(shows_progress=True)
        self.total = 0

    def begin(self, stage: str, total: int) -> None:
        """Open the progress bar of a stage of ``total`` steps."""
        self.total = total
        if self.bars:
            self.bars.before_stage(self.run, stage, total)

    def step(self, stage: str, step: int, save: Callable[[], None] | None = None, due: bool = False) -> None:
        """Advance the bar or call the function."""
        if self.report:
            self.report(stage, step, self.total)
        if self.bars:
            self.bars.after_stage_step(self.run, stage, step)
            if step == self.total:
                self.bars.after_stage(self.run, stage)

    def close(self) -> None:
        """Close a bar that is still open."""
        if self.bars:
            self.bars.after_run(self.run)


class MemoryStore:
    """Keeps images in memory (:class:`psaq_mm.generation.ImageStore`)."""

    def __init__(self) -> None:
        self.images: dict[str, Tensor] = {}

    def keep(self, image: Tensor) -> str:
        """Store an image and return its name."""
        name = str(len(self.images))
        self.images[name] = image
        return name

    def open(self, name: str) -> Tensor:
        """The image stored under a name."""
        return self.images[name]
