"""The built-in demo scenes, as a COCO data set that is drawn on first use."""

from .demo import DemoScenes
from .scenes import CLASSES, Scene, draw_scene

__all__ = ["CLASSES", "DemoScenes", "Scene", "draw_scene"]
