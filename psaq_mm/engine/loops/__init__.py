"""The stages of a run: generate, calibrate, distill."""

from .calibrate import CalibrateLoop
from .distill import DistillLoop
from .generate import GenerateLoop, NoiseLoop
from .real import RealImagesLoop

__all__ = ["CalibrateLoop", "DistillLoop", "GenerateLoop", "NoiseLoop", "RealImagesLoop"]
