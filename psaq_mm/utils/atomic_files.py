"""Files that are either whole or not there: written aside, then renamed."""

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
    """Yields a path beside ``path`` to write to; renames it when the block ends without an error.

    Raises:
        PSAQError: It cannot be written; the message says why.
    """
    # The suffix stays, since writers look at it.
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
    """Write JSON whole or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")


def save_tensors(data: Any, path: Path) -> None:
    """``torch.save``, whole or not at all."""
    with replacing(path) as scratch:
        write_tensors(data, scratch)


def write_tensors(data: Any, path: Path) -> None:
    """``torch.save`` through a file of Python's, whose errors say what is wrong; torch's own say where in its code.

    Raises:
        OSError: The disk is full, or gone.
    """
    try:
        with path.open("wb") as file:
            torch.save(data, file)
            # Before it is renamed: else a loss of power may leave the name with nothing behind it.
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        # torch closes its archive on the way out, which fails again and hides the first error.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def save_with(write: Callable[[Path], object], path: Path) -> None:
    """Let ``write`` make the file, whole or not at all."""
    with replacing(path) as scratch:
        write(scratch)


def prove_writable(folder: Path) -> None:
    """Make a folder and write a file there that is gone at once; an ``OSError`` says why that cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def writable_folder(path: Path) -> Path:
    """Make a folder and prove that files can be written there.

    Raises:
        UsageError: They can't.
    """
    try:
        prove_writable(path)
    except OSError as error:
        raise UsageError(
            f"cannot write to the work dir {path} ({error.strerror}): choose another with --work-dir"
        ) from None
    return path


def writable_file(path: Path) -> Path:
    """Make a file's folder and prove that the file can be written.

    Raises:
        UsageError: It can't.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; give the path of a file")
    try:
        prove_writable(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): give another path") from None
    return path
