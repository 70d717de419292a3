"""The integration into mmengine: a runner, its stages as loops, and hooks for logs, progress and saved states."""

from .hooks import CycleLogHook, ProgressHook, SamplesHook, StateHook
from .loops import CalibrateLoop, DistillLoop, GenerateLoop, NoiseLoop, RealImagesLoop
from .runner import DFQRunner

__all__ = [
    "CalibrateLoop",
    "CycleLogHook",
    "DistillLoop",
    "DFQRunner",
    "GenerateLoop",
    "NoiseLoop",
    "ProgressHook",
    "RealImagesLoop",
    "SamplesHook",
    "StateHook",
]
