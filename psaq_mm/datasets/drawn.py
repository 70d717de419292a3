"""Data sets that are drawn on first use, completely or not at all, and that never replace other files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process

from ..errors import UsageError

SPLITS = {"train": 0, "val": 1}
Draw = Callable[[Path, tuple[int, int], int, int], dict[str, Any]]


@dataclass(frozen=True)
class Drawing:
    """One split of a drawn data set: pictures in ``folder/split`` and annotations in ``folder/split.json``.

    Args:
        maker: Name of the data set, for messages.
        draw: Draws into an empty folder and returns the records of the annotation file; its arguments are the folder,
            the seed of the split (seed and number), the number of pictures and their size.
        counted: The key of the records that has one entry for each picture.
        folder: The folder of the data set.
        split: ``'train'`` or ``'val'``; the two never share a picture.
        images: Number of pictures.
        seed: Seed of the pictures.
        size: Height and width in pixels.
        labels: Kind of the annotations, which distinguishes the file from those of other drawn data sets; None for
            none.

    Raises:
        ValueError: ``split`` is neither of the two.
    """

    maker: str
    draw: Draw
    counted: str
    folder: Path
    split: str
    images: int
    seed: int
    size: int
    labels: str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            known = ", ".join(SPLITS)
            raise ValueError(f"{self.maker} has the splits {known}, not {self.split!r}: set split to one of them.")

    @property
    def info(self) -> dict[str, Any]:
        """The settings that determine the pictures, as stored in the annotation file."""
        return {"seed": self.seed, "size": self.size} | ({"labels": self.labels} if self.labels else {})

    def ensure(self) -> None:
        """Draw the split in the main process unless it exists; other processes wait.

        Raises:
            UsageError: The folder contains another data set.
        """
        if is_main_process() and not self.made():
            self.write()
        barrier()

    def made(self) -> bool:
        """Whether the split exists with these settings.

        Raises:
            UsageError: The folder contains another data set.
        """
        annotations, pictures = self.folder / f"{self.split}.json", self.folder / self.split
        if not annotations.exists():
            if pictures.exists():
                raise UsageError(
                    f"{pictures} has no {annotations.name} beside it and may be yours: delete it "
                    "or choose another data_root for the demo"
                )
            return False
        try:
            records = json.loads(annotations.read_text())
            info, count = records["info"], len(records[self.counted])
            ours = set(info) == set(self.info) and info.get("labels") == self.labels
        except (ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise UsageError(f"{annotations} was not made by {self.maker}: choose another data_root for the demo")
        return pictures.is_dir() and info == self.info and count == self.images

    def write(self) -> None:
        """Draw the split.

        It is drawn to temporary files, which are renamed when they are complete, pictures last. So an interrupted run
        leaves neither an incomplete split nor pictures without annotations, which could belong to a user.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{self.split}-", dir=self.folder))
        annotations = scratch.with_suffix(".json")
        try:
            records = self.draw(scratch, (self.seed, SPLITS[self.split]), self.images, self.size)
            annotations.write_text(json.dumps({"info": self.info, **records}))
            shutil.rmtree(self.folder / self.split, ignore_errors=True)
            scratch.chmod(0o755)
            os.replace(annotations, self.folder / f"{self.split}.json")
            scratch.rename(self.folder / self.split)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            annotations.unlink(missing_ok=True)
