"""Atomic writing of files: to a temporary file, which is then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import PSAQError, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically: yield a temporary path, and rename it to ``path`` after the block.

    Raises:
        PSAQError: The file cannot be written.
    """
    # The suffix is kept, because some writers choose the format by it.
    scratch = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield scratch
        os.replace(scratch, path)
    except OSError as error:
        raise PSAQError(
            f"cannot write {path} ({error.strerror or error}): make room for it or give another place"
        ) from None
    finally:
        scratch.unlink(missing_ok=True)


def save_json(data: Any, path: Path) -> None:
    """Write JSON atomically."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")


def save_tensors(data: Any, path: Path) -> None:
    """Write the file of ``torch.save`` atomically."""
    with replacing(path) as scratch:
        write_tensors(data, scratch)


def write_tensors(data: Any, path: Path) -> None:
    """``torch.save`` to a Python file object, so that a full disk raises an OSError instead of an internal error.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(data, file)
            # Sync before the file is renamed: otherwise it may be empty after a power failure.
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        # torch closes its archive after the first error; this fails too and hides that error.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def save_with(write: Callable[[Path], object], path: Path) -> None:
    """Write a file atomically by calling ``write`` with a temporary path; its return value is ignored."""
    with replacing(path) as scratch:
        write(scratch)


def prove_writable(folder: Path) -> None:
    """Create a folder and a temporary file in it.

    Raises:
        OSError: One of them cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def writable_folder(path: Path) -> Path:
    """Create a folder and check that it is writable.

    Returns:
        The folder.

    Raises:
        UsageError: It is not writable.
    """
    try:
        prove_writable(path)
    except OSError as error:
        raise UsageError(
            f"cannot write to the work dir {path} ({error.strerror}): choose another with --work-dir"
        ) from None
    return path


def writable_file(path: Path) -> Path:
    """Create the folder of a file and check that it is writable.

    Returns:
        The path of the file.

    Raises:
        UsageError: The folder is not writable, or the path is that of a folder.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; give the path of a file")
    try:
        prove_writable(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): give another path") from None
    return path
