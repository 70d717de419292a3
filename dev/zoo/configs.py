"""The configs that the libraries ship: found, read, and told apart from files that describe no model."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from psaq_mm.errors import UsageError
from psaq_mm.models import HOSTS

BASE = "_base_"


@dataclass(frozen=True)
class ZooConfig:
    """A config of a library.

    Attributes:
        library: ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.
        name: Its path below the library's ``configs``, without suffix.
        scope: Its ``default_scope``; the library where it names none.
        model: What it says about the model; None for a file that describes none, such as a schedule.
        error: Why it could not be read, in one line; else empty.
    """

    library: str
    name: str
    scope: str
    model: dict[str, Any] | None = None
    error: str = ""


def configs_folder(library: str) -> Path:
    """The folder of the configs that a library ships.

    Raises:
        UsageError: The library is not installed, or has none.
    """
    spec = find_spec(library)
    folder = Path(str(spec.origin)).parent / ".mim" / "configs" if spec else Path(library)
    if not folder.is_dir():
        raise UsageError(f"{library} has no configs at {folder}: install a released version of it")
    return folder


def config_names(folder: Path) -> list[str]:
    """The configs below a folder by name, except parts for other configs (``_base_``)."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*.py")))
    return [path.with_suffix("").as_posix() for path in paths if BASE not in path.parts]


def read(library: str, name: str, folder: Path | None = None) -> Config:
    """Read a config of a library; what it prints or warns of is not shown.

    Args:
        library: The library.
        name: See :class:`ZooConfig`.
        folder: The folder of its configs; default: that of the library.
    """
    path = (folder or configs_folder(library)) / f"{name}.py"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return Config.fromfile(path)


def find_configs(libraries: tuple[str, ...] = HOSTS, folder: Path | None = None) -> Iterator[ZooConfig]:
    """Read all configs of libraries, in the order of their names.

    Args:
        libraries: The libraries.
        folder: The folder of the configs, for tests; default: that of each library.
    """
    for library in libraries:
        for name in config_names(folder or configs_folder(library)):
            try:
                cfg = read(library, name, folder)
            except Exception as error:  # a config is a program, which can raise any exception
                yield ZooConfig(library, name, library, error=one_line(error))
                continue
            model = cfg.get("model")
            # A plain dictionary: a Config keeps the text of all files it was read from.
            described = model.to_dict() if isinstance(model, dict) and model.get("type") else None
            yield ZooConfig(library, name, cfg.get("default_scope") or library, described)


def one_line(error: BaseException, limit: int = 240) -> str:
    """Class and message of an error in one line."""
    said = " ".join(str(error).replace(str(Path.home()), "~").split())
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    for place in {str(Path(str(spec.origin)).parents[1]) for spec in map(find_spec, HOSTS) if spec}:
        said = said.replace(f"{place}/", "")
    return said if len(said) <= limit else f"{said[: limit - 1]}…"
