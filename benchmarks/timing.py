"""Times side by side: contenders in turn in one process, so that a slow moment of the machine meets them all."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
REST = 0.1  # seconds
# What decides how fast integers are multiplied, from the oldest to the newest.
INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
) -> dict[str, list[float]]:
    """Wall seconds of every contender in every round.

    Args:
        contenders: What is called, by name.
        rounds: How often each is timed.
        warmup: How often each is called before.

    Returns:
        For every name one value a round, in the rounds' order, so that values of one index lie side by side in time.
    """
    for call in contenders.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            # Threads of the contender before go on spinning for a while, on the cores of this one.
            time.sleep(REST)
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster: the median over rounds of the two contenders' ratio.

    Example: seconds of 2, 2, 6 against 1, 1, 2: ratios 2, 2, 3, median 2.
    """
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


def cpu() -> str:
    """Name and instruction sets of the CPU, e.g. ``'AMD EPYC 9R14 (avx2, avx512f, avx512_vnni)'``."""
    try:
        lines = [line.partition(":") for line in CPUINFO.read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in lines}
    known = (facts.get("flags") or facts.get("Features") or "").split()
    sets = [name for name in INSTRUCTION_SETS if name in known]
    return f"{facts.get('model name', platform.machine())} ({', '.join(sets) or 'no SIMD named'})"
