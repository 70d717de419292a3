"""Memory of the process: measurements, and settings of glibc's malloc."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Constants of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let malloc keep freed blocks (of any size; glibc before 2.35: below 32 MiB) for the rest of the process.

    Each step frees its activations, and the next step allocates them again. By default glibc returns large blocks to
    the kernel, which clears each new page; on CPUs this takes a sixth of a generator step.

    Returns:
        Whether the C library supports the setting; only glibc does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # 2 GiB, or 32 MiB as the maximum of glibc before 2.35; a trim threshold of -1 means never.
    threshold = any(mallopt(M_MMAP_THRESHOLD, size) for size in (2**31 - 1, 2**25))
    return bool(mallopt(M_TRIM_THRESHOLD, -1)) and threshold


def give_back_freed_memory() -> None:
    """Return free memory to the kernel if the C library supports it."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory() -> None:
    """Reset the peak of :func:`peak_memory_mib`; without effect on systems other than Linux."""
    give_back_freed_memory()
    with suppress(OSError):
        CLEAR.write_text("5")


def peak_memory_mib() -> int:
    """Peak resident memory since the last reset, in MiB."""
    try:
        return int(_status("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@contextmanager
def memory_growth() -> Iterator[list[float]]:
    """Measure by how much the peak resident memory of a block exceeds the memory before it.

    Yields:
        A list, to which the growth in MiB is appended when the block ends; it stays empty on systems other than Linux.
    """
    grown: list[float] = []
    give_back_freed_memory()  # otherwise the block could reuse freed memory, which would not count
    try:
        CLEAR.write_text("5")
        before = _status("VmRSS")
    except (OSError, StopIteration):
        yield grown
        return
    yield grown
    grown.append(_status("VmHWM") - before)


def _status(key: str) -> float:
    """A value of ``/proc/self/status`` in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024
