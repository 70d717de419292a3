"""The stages of a run, as mmengine loops."""

from .calibrate import CalibrateLoop
from .cycle import CycleLoop
from .generate import GenerateLoop, NoiseLoop
from .real import RealImagesLoop

__all__ = ["CalibrateLoop", "CycleLoop", "GenerateLoop", "NoiseLoop", "RealImagesLoop"]
