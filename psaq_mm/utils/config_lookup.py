"""Lookup of the configs and checkpoints in the package, from any current folder."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import UsageError

PACKAGE = Path(__file__).resolve().parents[1]
SHOWN_NAMES = 3


def packaged_root() -> Path:
    """The folder that contains ``configs``: ``psaq_mm/.mim`` in an installed package, else the checkout."""
    mim = PACKAGE / ".mim"
    return mim if (mim / "configs").is_dir() else PACKAGE.parent


def packaged(path: str) -> Path:
    """The path of a packaged file or folder, relative to the current folder if it is inside."""
    # In an editable install the root contains links to the checkout; resolve them for messages and records.
    found = (packaged_root() / path).resolve()
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def packaged_configs() -> dict[str, Path]:
    """All packaged configs except base configs, by name: the path below ``configs`` without suffix."""
    folder = packaged("configs")
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*.py"))}
    return {below.with_suffix("").as_posix(): path for below, path in paths.items() if "_base_" not in below.parts}


def find_config(name: str | Path) -> Path:
    """Find a config by its path, or a packaged config by its name.

    Args:
        name: A path, or a name such as ``mask_rcnn_swin_s_w8a8`` or ``demo/mask_rcnn_swin_nano_w8a8``, with or without
            ``configs/`` before and ``.py`` after it.

    Raises:
        UsageError: No config has this path or name, or several have this name.
    """
    # This also finds packaged files without a name, for example in configs/_base_.
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
    # Compare with whole names and with their last parts, because users often leave out the folder.
    last = {one: one.rpartition("/")[2] for one in known}
    near = difflib.get_close_matches(asked, [*known, *last.values()], SHOWN_NAMES)
    near = list(dict.fromkeys(one for hit in near for one in known if hit in (one, last[one])))[:SHOWN_NAMES]
    hint = f"near names are {', '.join(near)}" if near else "give the path of one, for example from configs/"
    raise UsageError(f"there is no config {name}, neither as a file nor in psaq_mm: {hint}")


def find_file(path: str | Path) -> Path:
    """Find a file in the current folder or, if it does not exist there, in the package.

    Args:
        path: A path such as ``configs/demo/mask_rcnn_swin_nano.pth``.

    Returns:
        The path of the file; ``path`` itself if neither exists.
    """
    own = packaged(str(path))
    return own if not Path(path).is_file() and own.is_file() else Path(path)
