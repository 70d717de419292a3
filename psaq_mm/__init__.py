"""Data-free quantization of vision-transformer detectors, segmentors and classifiers, as an OpenMMLab plugin.

Importing the package needs torch alone. Where mmengine is installed, the import also registers the scope ``psaq_mm``,
so that a host library's config only needs ``custom_imports=['psaq_mm']``. The functions below check the installation
and import OpenMMLab when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["Result", "__version__", "analyze", "export", "load", "quantize"]

if TYPE_CHECKING:
    from .api import Result, analyze, export, load, quantize


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .compat import check_environment

    check_environment()
    return getattr(importlib.import_module(".api", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if find_spec("mmengine") is not None:
    from . import registry as registry
