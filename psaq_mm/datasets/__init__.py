"""The built-in demo scenes and objects, as data sets of mmdet, mmseg and mmpretrain that are drawn on first use."""

from __future__ import annotations

import importlib
from typing import Any

from ..registry import DATASETS
from .scenes import CLASSES, Scene, draw_object, draw_scene

# Each derives from a class of another library, which is imported when its data set is asked for and not before: it
# takes seconds, or isn't installed.
MODULES = {"DemoScenes": "demo", "DemoSegments": "segments", "DemoObjects": "objects"}
__all__ = ["CLASSES", "DemoObjects", "DemoScenes", "DemoSegments", "Scene", "draw_object", "draw_scene"]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)


def _register(name: str) -> None:
    def build(**options: Any) -> Any:
        return __getattr__(name)(**options)

    build.__name__ = build.__qualname__ = name
    DATASETS.register_module(name=name, module=build)


for _name in MODULES:
    _register(_name)
