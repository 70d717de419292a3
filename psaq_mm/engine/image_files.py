"""Images on disk, a file each: memory is free for networks, and states need not hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..generation import image_bytes
from .files import save_tensors


class ImageFiles:
    """Images in a folder, named by the hash of their bytes and mapped into memory when they are opened.

    The operating system reads a page when it is looked at and drops it where memory is short. A name says what its file
    must hold, so that two runs to the same bits write the same files, and damage is noticed.

    Args:
        folder: Made when the first image comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.retained: set[str] = set()

    def path(self, name: str) -> Path:
        """Where an image lies."""
        return self.folder / f"{name}.pth"

    def keep(self, image: Tensor) -> str:
        """Write an image, ``(channels, H, W)``, float32 on the CPU, unless it is there, and give its name.

        Raises:
            PSAQError: It cannot be written.
        """
        name = hashlib.sha256(image_bytes(image)).hexdigest()
        if not self.path(name).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_tensors(image.detach().clone(), self.path(name))
        return name

    def open(self, name: str) -> Tensor:
        """An image, mapped: to be read, not written."""
        return torch.load(self.path(name), mmap=True, weights_only=True)

    def check(self, names: Iterable[str]) -> None:
        """Make sure that images can be opened; a file that isn't what its name says is deleted.

        Raises:
            OSError: One is missing or damaged.
        """
        for name in names:
            try:
                whole = hashlib.sha256(image_bytes(self.open(name))).hexdigest() == name
            except RuntimeError:  # torch's for an archive that is cut off
                whole = False
            if not whole:
                self.path(name).unlink(missing_ok=True)
                raise OSError(f"{self.path(name)} is damaged")

    def retain(self, names: set[str]) -> None:
        """Delete all files but those named now and the last time: those of the newest state and the one before."""
        kept = names | self.retained
        for path in self.folder.glob("*.pth"):
            if path.stem not in kept:
                path.unlink()
        self.retained = names
