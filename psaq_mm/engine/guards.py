"""What a long run survives: steps that are not finite, and generation that does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..generation import NonFiniteLossError

# How often in a row a step may fail before the run stops.
LIMIT = 5


class Backoff:
    """Skips steps that are not finite at a halved learning rate, a bounded number of times in a row.

    Example: two failures and a good step leave ``scale`` at 0.25; four more are skipped, the fifth in a row raises.

    Args:
        warn: Told of every skipped step.
        scale: The factor on the learning rate to start from.

    Attributes:
        scale: The factor, 1 or a power of a half; it stays where it fell to.
    """

    def __init__(self, warn: Callable[[str], None], scale: float = 1.0) -> None:
        self.warn, self.scale, self.failures = warn, scale, 0

    def failed(self, error: NonFiniteLossError) -> None:
        """A step was not finite.

        Raises:
            NonFiniteLossError: It was the last that may fail in a row.
        """
        self.failures += 1
        if self.failures >= LIMIT:
            raise error
        self.scale /= 2
        self.warn(f"{error}: step skipped, learning rate halved ({self.failures} of {LIMIT} in a row)")

    def passed(self) -> None:
        """A step was good."""
        self.failures = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
