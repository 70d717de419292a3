"""The run: a runner, its stages as loops, its records as hooks."""

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
