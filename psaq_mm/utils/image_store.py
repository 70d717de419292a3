"""Images on disk, a file each: memory is free for networks, and states need not hold them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from .atomic_files import save_tensors, writable_folder
from .tensor_bytes import image_bytes

# An image's file, or the scratch that a killed process left of one; nothing else in the folder is ours.
OURS = re.compile(r"(\.\d+\.)?[0-9a-f]{64}\.pth")


class DiskImageStore:
    """Images in a folder, named by the hash of their bytes and mapped into memory when they are opened.

    The operating system reads a page when it is looked at and drops it where memory is short. A name says what its file
    must hold, so that two runs to the same bits write the same files, and damage is noticed.

    Args:
        folder: Made when the first image comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.retained: set[str] = set()

    @staticmethod
    def name_of(image: Tensor) -> str:
        """SHA-256 of an image's bytes."""
        return hashlib.sha256(image_bytes(image)).hexdigest()

    def path(self, name: str) -> Path:
        """Where an image lies."""
        return self.folder / f"{name}.pth"

    def keep(self, image: Tensor) -> str:
        """Write an image, ``(channels, H, W)``, float32 on the CPU, unless it is there, and give its name.

        Raises:
            PSAQError: It cannot be written.
        """
        name = self.name_of(image)
        if not self.path(name).exists():
            if not self.folder.is_dir():
                writable_folder(self.folder)
            save_tensors(image.detach().clone(), self.path(name))
        return name

    def open(self, name: str) -> Tensor:
        """An image, mapped: to be read, not written."""
        # As a string: torch 2.2 and older map nothing else.
        return torch.load(str(self.path(name)), mmap=True, weights_only=True)

    def check(self, names: Iterable[str]) -> None:
        """Make sure that images can be opened; files that aren't what their names say are deleted.

        Raises:
            OSError: One is missing or damaged.
        """
        damaged = [name for name in names if not self.is_whole(name)]
        for name in damaged:
            self.path(name).unlink(missing_ok=True)
        if damaged:
            raise OSError(f"{self.path(damaged[0])} is missing or damaged")

    def is_whole(self, name: str) -> bool:
        """Whether an image's file is there and holds what its name says."""
        try:
            return self.name_of(self.open(name)) == name
        except Exception:  # a flipped bit can make anything of a file's structure
            return False

    def retain(self, names: set[str]) -> None:
        """Delete all images but those named now and the last time: those of the newest state and the one before."""
        kept = names | self.retained
        for path in self.folder.glob("*.pth"):
            if OURS.fullmatch(path.name) and path.stem not in kept:
                with suppress(OSError):  # it takes room, no more
                    path.unlink()
        self.retained = names
