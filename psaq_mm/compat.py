"""Differences between the distributions and versions of OpenMMLab, and the check of the installation.

Two distributions have the same import names: the maintained builds (``onedl-*``) and upstream's, whose releases ended
in 2024-25. Only this module distinguishes them.
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
    """Check that torch, mmengine, mmcv with its compiled ops and torchvision are installed and compatible.

    Raises:
        ImportError: A package is missing or was built for another torch; the message is one line with the command to
            run.
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
    """Versions of the installed packages that results depend on, by import name."""
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
    """Make mmengine find mmseg's configs (``mmseg::…``) in either distribution.

    mmengine looks up the distribution ``mmsegmentation``, which is the name of upstream's only. The lookup by the name
    of the module works for both.
    """
    from mmengine.config import utils

    try:
        metadata.version("mmsegmentation")
    except metadata.PackageNotFoundError:
        utils.MODULE2PACKAGE["mmseg"] = "mmseg"


def import_quietly(*modules: str) -> None:
    """Import the installed ones of these packages, suppressing their output about missing optional dependencies."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            if importlib.util.find_spec(name.partition(".")[0]) is not None:
                importlib.import_module(name)


def safe_globals(allowed: Iterable[Any]) -> AbstractContextManager:
    """A context in which ``torch.load(weights_only=True)`` also accepts the given classes and functions.

    torch has this context since 2.5, and supports renamed objects since 2.6. With older versions the returned context
    does nothing: checkpoints of tensors and numbers load, all others are refused.

    Args:
        allowed: Classes and functions, or pairs of one of them and its name in the checkpoint.
    """
    import torch

    context = getattr(torch.serialization, "safe_globals", None)
    if context is None:
        return contextlib.nullcontext()
    renames = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)
    return context([one for one in allowed if renames or not isinstance(one, tuple)])
