"""Storage of images on disk, one file each, so that neither memory nor saved states hold them."""

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

# Names of image files, and of temporary files that a killed process has left.
OURS = re.compile(r"(\.\d+\.)?[0-9a-f]{64}\.pth")


class DiskImageStore:
    """Stores images in a folder, named by the SHA-256 of their bytes, and opens them memory-mapped.

    Because of the names, a resumed run writes the same files again, and damaged files are detected.

    Args:
        folder: The folder; it is created with the first image.

    Attributes:
        retained: Names of the last call of :meth:`retain`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.retained: set[str] = set()

    @staticmethod
    def name_of(image: Tensor) -> str:
        """The name of an image: the SHA-256 of its bytes."""
        return hashlib.sha256(image_bytes(image)).hexdigest()

    def path(self, name: str) -> Path:
        """The path of an image."""
        return self.folder / f"{name}.pth"

    def keep(self, image: Tensor) -> str:
        """Write an image unless its file exists.

        Args:
            image: ``(channels, H, W)``, float32 on the CPU.

        Returns:
            The name of the image.

        Raises:
            PSAQError: The file cannot be written.
        """
        name = self.name_of(image)
        if not self.path(name).exists():
            if not self.folder.is_dir():
                writable_folder(self.folder)
            save_tensors(image.detach().clone(), self.path(name))
        return name

    def open(self, name: str) -> Tensor:
        """Open an image memory-mapped; the tensor must not be written to."""
        # A string, because torch 2.2 and older do not map Path objects.
        return torch.load(str(self.path(name)), mmap=True, weights_only=True)

    def check(self, names: Iterable[str]) -> None:
        """Check that images exist and are undamaged; damaged files are deleted.

        Raises:
            OSError: An image is missing or damaged.
        """
        damaged = [name for name in names if not self.is_whole(name)]
        for name in damaged:
            self.path(name).unlink(missing_ok=True)
        if damaged:
            raise OSError(f"{self.path(damaged[0])} is missing or damaged")

    def is_whole(self, name: str) -> bool:
        """Whether an image's file exists and has the hash in its name."""
        try:
            return self.name_of(self.open(name)) == name
        except Exception:  # a damaged file can raise any exception
            return False

    def retain(self, names: set[str]) -> None:
        """Delete all images except those of this call and of the last one, which belong to the last two states."""
        kept = names | self.retained
        for path in self.folder.glob("*.pth"):
            if OURS.fullmatch(path.name) and path.stem not in kept:
                with suppress(OSError):  # a file that stays only takes space
                    path.unlink()
        self.retained = names
