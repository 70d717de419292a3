"""The configs and checkpoints that travel with the package, found from any folder."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import UsageError

PACKAGE = Path(__file__).resolve().parents[1]
SHOWN_NAMES = 3


def packaged_root() -> Path:
    """What paths like ``configs/demo/…`` are relative to: ``psaq_mm/.mim`` of an install, or else the checkout."""
    mim = PACKAGE / ".mim"
    return mim if (mim / "configs").is_dir() else PACKAGE.parent


def packaged(path: str) -> Path:
    """A file or folder below that root, relative to the current folder where it lies in it."""
    # In an editable install the root holds links into the checkout: what is shown and recorded is the checkout's.
    found = (packaged_root() / path).resolve()
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def packaged_configs() -> dict[str, Path]:
    """All configs that can be run, by the path below ``configs`` without suffix, as in ``demo/mask_rcnn_swin_nano``."""
    folder = packaged("configs")
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*.py"))}
    return {below.with_suffix("").as_posix(): path for below, path in paths.items() if "_base_" not in below.parts}


def find_config(name: str | Path) -> Path:
    """A config by its path, or one of the package's own by its name.

    Args:
        name: A file; or ``mask_rcnn_swin_s_w8a8``, ``demo/mask_rcnn_swin_nano_w8a8``, with or without ``.py`` and with
            or without ``configs/`` before it.

    Raises:
        UsageError: There is none, or several of the package's own have this name.
    """
    # A file of the package's own that is none of the names, for example of configs/_base_, is found by its path.
    if find_file(name).is_file():
        return find_file(name)
    known = packaged_configs()
    asked = Path(name).as_posix().removeprefix("configs/").removesuffix(".py")
    if asked in known:
        return known[asked]
    found = [one for one in known if one.endswith(f"/{asked}")]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise UsageError(f"there is more than one config {name}: give one of {', '.join(found)}")
    # Near by its whole name or by its last part: a demo's name is mostly typed without its folder.
    last = {one: one.rpartition("/")[2] for one in known}
    near = difflib.get_close_matches(asked, [*known, *last.values()], SHOWN_NAMES)
    near = list(dict.fromkeys(one for hit in near for one in known if hit in (one, last[one])))[:SHOWN_NAMES]
    hint = f"near names are {', '.join(near)}" if near else "give the path of one, for example from configs/"
    raise UsageError(f"there is no config {name}, neither as a file nor in psaq_mm: {hint}")


def find_file(path: str | Path) -> Path:
    """A file of the current folder; where it is not there, the package's own at this relative path.

    Args:
        path: For example ``configs/demo/mask_rcnn_swin_nano.pth``.

    Returns:
        The path as it came where neither is there, so that messages name what was asked for.
    """
    own = packaged(str(path))
    return own if not Path(path).is_file() and own.is_file() else Path(path)
