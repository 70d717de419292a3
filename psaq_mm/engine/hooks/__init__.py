"""Hooks for logs, progress bars, pictures and saved states, one in each file."""

from .agreement import AgreementHook
from .cycle_log import CycleLogHook
from .progress import ProgressHook
from .samples import SamplesHook
from .state import StateHook

__all__ = ["AgreementHook", "CycleLogHook", "ProgressHook", "SamplesHook", "StateHook"]
