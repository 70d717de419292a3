"""Pictures that are drawn on first use: whole or not at all, and never over somebody else's."""

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
    """One split of a drawn data set: ``folder/split`` with the pictures, ``folder/split.json`` with what they show.

    Args:
        maker: The data set, for messages.
        draw: Draws into an empty folder, given the seed of the split (seed and number), how many and the size; returns
            the records of the annotation file.
        counted: The key of the records that has one entry a picture.
        folder: Where both lie.
        split: ``'train'`` or ``'val'``; the two never share a picture.
        images: How many pictures.
        seed: What they follow from.
        size: Height and width in pixels.
        labels: What tells the annotation file from that of another drawn data set, if it needs to be told.

    Raises:
        ValueError: If ``split`` is neither of the two.
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
        """What the pictures follow from, as the annotation file records it."""
        return {"seed": self.seed, "size": self.size} | ({"labels": self.labels} if self.labels else {})

    def ensure(self) -> None:
        """Draw what is not there yet; other processes wait for the main one.

        Raises:
            UsageError: If another data set lies there.
        """
        if is_main_process() and not self.made():
            self.write()
        barrier()

    def made(self) -> bool:
        """Whether the very pictures are there.

        Raises:
            UsageError: If another data set lies there.
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

        Drawn beside its place and renamed when it is whole, pictures last, so that an interrupted run leaves nothing
        that a later one would take for complete, nor pictures that could be somebody else's.
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
