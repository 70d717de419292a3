"""The learning-rate schedule of the image optimisation."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to 0, as in V1's published code.

    ::

        (step + 1) / warmup                                        step < warmup
        0.5 (1 + cos(pi (step - warmup) / (total - warmup)))       after that

    Example: V1's 100 warm-up steps of 500: 0.01 at step 0, 1 at steps 99 and 100, 0.5 at step 300. V1 runs this
    schedule twice, for 500 steps each.

    Args:
        step: Index of the step, from 0; the result is 0 from ``total`` on.
        total: Number of steps.
        warmup: Number of warm-up steps, 0 for none.

    Returns:
        The factor on the learning rate, in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
