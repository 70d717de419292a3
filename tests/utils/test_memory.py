"""Peak memory, its growth in a block, and freed memory that is kept."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys

import numpy as np
import pytest

from psaq_mm.utils import memory
from psaq_mm.utils.memory import memory_growth, peak_memory_mib, reset_peak_memory

# Page faults of twenty blocks of 64 MiB, one after the other: before it is set, and after.
FAULTS = """
import resource
import numpy as np
from psaq_mm.utils.memory import keep_freed_memory

def faults():
    np.ones(64 << 20, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(64 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory(), faults())
"""


def test_the_peak_is_of_the_time_since_the_reset():
    reset_peak_memory()
    before = peak_memory_mib()
    # straight from the system: allocators would reuse what they have
    with mmap.mmap(-1, 100 * 2**20) as block:
        block.write(b"1" * len(block))
        assert peak_memory_mib() >= before + 90
    reset_peak_memory()
    # where a reset is refused the peak stays; the bytes that were written are 100 MiB more
    assert peak_memory_mib() <= before + 210


def test_growth_sees_the_peak():
    with memory_growth() as grown:
        held = np.ones(32 << 20, np.uint8)
        del held
    if not grown:
        pytest.skip("the kernel does not say how much memory a process takes")
    # other threads of the process may give some back meanwhile
    assert 24 < grown[0] < 64


def test_growth_is_unknown_where_the_kernel_is_silent(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "none" / "clear_refs")
    with memory_growth() as grown:
        pass
    assert grown == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again_without_asking_the_kernel():
    """In a process of its own, for which it is set for good. Twenty blocks of 64 MiB have 327680 pages of 4 KiB."""
    outcome = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, known, after = outcome.stdout.split()
    # At best, with huge pages, each block is 32 pages; kept blocks are asked for once, and then filled without any.
    assert known == "True" and int(after) < 320 < int(before)


def test_other_c_libraries_say_so(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed_memory()
