"""The demo data sets for mmdet, mmseg and mmpretrain, whose images are drawn on first use, and COCO masks for mmseg."""

from __future__ import annotations

import importlib
from typing import Any

from mmengine.registry import Registry

from ..registry import DATASETS, TRANSFORMS
from .scenes import CLASSES, Scene, draw_object, draw_scene

# Each module imports a host library, which takes seconds or is not installed, so modules are imported on first use.
MODULES = {
    "DemoScenes": "demo",
    "DemoSegments": "segments",
    "DemoObjects": "objects",
    "CocoSegments": "coco_segments",
    "LoadCocoSegments": "coco_segments",
}
__all__ = [
    "CLASSES",
    "CocoSegments",
    "DemoObjects",
    "DemoScenes",
    "DemoSegments",
    "LoadCocoSegments",
    "Scene",
    "draw_object",
    "draw_scene",
]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)


def _register(name: str, registry: Registry) -> None:
    def build(**options: Any) -> Any:
        return __getattr__(name)(**options)

    build.__name__ = build.__qualname__ = name
    registry.register_module(name=name, module=build)


for _name in MODULES:
    _register(_name, TRANSFORMS if _name.startswith("Load") else DATASETS)
