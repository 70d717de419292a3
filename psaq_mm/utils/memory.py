"""The process's memory: how much it takes, and glibc told to keep what is freed."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let malloc keep freed blocks (of any size; glibc before 2.35: below 32 MiB) for the rest of the process.

    Activations are freed in every step and wanted again in the next. glibc hands large blocks back to the kernel, which
    clears every page anew: a sixth of a generator step on CPUs.

    Returns:
        Whether the C library can; only glibc does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # 2 GiB, or 32 MiB, more than which glibc before 2.35 refuses; -1 is never
    threshold = any(mallopt(M_MMAP_THRESHOLD, size) for size in (2**31 - 1, 2**25))
    return bool(mallopt(M_TRIM_THRESHOLD, -1)) and threshold


def give_back_freed_memory() -> None:
    """Hand everything that is free back to the kernel, where the C library can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory() -> None:
    """Start a new measurement of the peak, where the system allows it (Linux; otherwise the process's own peak)."""
    give_back_freed_memory()
    with suppress(OSError):
        CLEAR.write_text("5")


def peak_memory_mib() -> int:
    """Highest resident memory since the last reset, in MiB."""
    try:
        return int(_status("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@contextmanager
def memory_growth() -> Iterator[list[float]]:
    """What a block adds to the process at its peak.

    Yields:
        A list that holds the growth of resident memory in MiB when the block ends; it stays empty where the kernel does
        not say (only Linux does).
    """
    grown: list[float] = []
    give_back_freed_memory()  # else what others freed would be used again unseen
    try:
        CLEAR.write_text("5")
        before = _status("VmRSS")
    except (OSError, StopIteration):
        yield grown
        return
    yield grown
    grown.append(_status("VmHWM") - before)


def _status(key: str) -> float:
    """A line of the kernel's account of the process, in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024
