"""How the learning rate of the pixels changes over a run."""

from __future__ import annotations

import math
from collections.abc import Callable


def cosine_with_warmup(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to 0, as in V1's published code.

    ::

        (step + 1) / warmup                                        step < warmup
        0.5 (1 + cos(pi (step - warmup) / (total - warmup)))       after that

    Example: V1's 100 of 500 steps: 0.01 at step 0, 1 at steps 99 and 100, 0.5 at step 300. V1 runs it twice, for 500
    steps each.

    Args:
        step: From 0; from ``total`` on the result is 0.
        total: Number of steps.
        warmup: How many of them warm up, 0 for none.

    Returns:
        The factor on the learning rate, 0 to 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def constant_with_warmup(step: int, total: int, warmup: int) -> float:
    """The same warm-up, then 1."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "cosine": cosine_with_warmup,
    "constant": constant_with_warmup,
}
