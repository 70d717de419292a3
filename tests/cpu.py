"""What of a CPU decides the last bits, or more, of what engines compute."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

WIDE = ("VNNI", "AMX", "DEFAULT", "ALL")
FLAGS = {"x86_64": ("avx512_vnni", "avx_vnni", "amx_int8"), "aarch64": ("asimddp",)}


def integer_sums_are_exact() -> bool:
    """Whether products of 8-bit integers are added in 32 bits.

    CPUs before VNNI add pairs of them in 16 bits, which saturate: oneDNN's kernels, which OpenVINO uses, then differ
    from the simulation by up to a tenth. ``ONEDNN_MAX_CPU_ISA=AVX2`` makes a new CPU such an old one.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    info = Path("/proc/cpuinfo")
    known = info.read_text() if info.exists() else ""
    return any(one in limit for one in WIDE) and any(flag in known for flag in FLAGS.get(platform.machine(), ()))


# Of maps against the simulation's, in dB: where sums saturate, 28 and more were seen for trained models, 15 for random
# weights.
SATURATED_SQNR = 12
needs_exact_sums = pytest.mark.skipif(
    not integer_sums_are_exact(), reason="OpenVINO reads INT4 weights on CPUs with VNNI or AMX only"
)
needs_exact_sums_of_random_weights = pytest.mark.skipif(
    not integer_sums_are_exact(),
    reason="before VNNI, OpenVINO saturates the sums of random weights, and crashed in a head with GroupNorm",
)
