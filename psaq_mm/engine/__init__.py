"""The run: a runner, its stages as loops, its records as hooks."""

from .hooks import CycleLogHook, ProgressHook, SamplesHook, StateHook
from .loops import CalibrateLoop, CycleLoop, GenerateLoop, NoiseLoop, RealImagesLoop
from .runner import DFQRunner

__all__ = [
    "CalibrateLoop",
    "CycleLogHook",
    "CycleLoop",
    "DFQRunner",
    "GenerateLoop",
    "NoiseLoop",
    "ProgressHook",
    "RealImagesLoop",
    "SamplesHook",
    "StateHook",
]
