"""All that differs between OpenMMLab's distributions and versions, and the check of what is installed.

Two distributions carry the same import names: the maintained builds (``onedl-*``) and upstream's, which stopped in
2024-25. Nothing else in the package knows of either.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "timm")
DISTRIBUTIONS = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}
FULL_INSTALL = (
    'pip install --no-build-isolation "psaq_mm[onedl]" (with torch 2.6 or newer), '
    'or "psaq_mm[openmmlab]" (with torch 2.1 to 2.5)'
)
COMPILE_MMCV = "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv"


def check_environment() -> None:
    """Make sure that what the package stands on is installed and fits together.

    Raises:
        ImportError: Something is missing or built for another torch; the message is one line and names the fix.
    """
    for name in ("torch", "mmengine", "mmcv"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"psaq_mm needs {name}, which is not installed: {FULL_INSTALL}")
    if importlib.util.find_spec("mmcv._ext") is None:
        raise ImportError(f"mmcv is installed without its compiled ops (mmcv-lite): {COMPILE_MMCV}")
    try:
        importlib.import_module("mmcv._ext")
    except ImportError:
        import torch

        raise ImportError(f"mmcv was compiled for another torch than {torch.__version__}: {COMPILE_MMCV}") from None
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        raise ImportError(f"psaq_mm needs torchvision, which is not installed: {FULL_INSTALL}") from None
    except RuntimeError:
        import torch

        build = torch.__version__.partition("+")[2] or "cpu"
        raise ImportError(
            f"torchvision does not fit torch {torch.__version__}: pip install --force-reinstall --no-deps torchvision "
            f"--index-url https://download.pytorch.org/whl/{build}"
        ) from None


def versions() -> dict[str, str]:
    """The versions of what a result depends on, by import name; what is not installed is left out."""
    found = {}
    for name in PACKAGES:
        for distribution in DISTRIBUTIONS.get(name, (name,)):
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def name_mmseg_configs() -> None:
    """Let configs be based on mmseg's (``mmseg::…``) in either distribution.

    mmengine looks for the distribution ``mmsegmentation``, which is upstream's; the maintained one has another name. By
    the name of the module it finds both.
    """
    from mmengine.config import utils

    try:
        metadata.version("mmsegmentation")
    except metadata.PackageNotFoundError:
        utils.MODULE2PACKAGE["mmseg"] = "mmseg"


def import_quietly(*modules: str) -> None:
    """Import host packages without what they print on the way about optional parts that nobody asked for."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            if importlib.util.find_spec(name.partition(".")[0]) is not None:
                importlib.import_module(name)


def safe_globals(allowed: Iterable[Any]) -> AbstractContextManager:
    """A context in which ``torch.load(weights_only=True)`` may also rebuild some harmless objects.

    torch has such a context since 2.5, and renamed objects in it since 2.6. Before 2.5 there is no list to add to: a
    checkpoint of plain tensors and numbers loads, any other is refused as it would be without the context.

    Args:
        allowed: Classes and functions, or pairs of one and the name that the checkpoint knows it by.
    """
    import torch

    context = getattr(torch.serialization, "safe_globals", None)
    if context is None:
        return contextlib.nullcontext()
    renames = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)
    return context([one for one in allowed if renames or not isinstance(one, tuple)])
