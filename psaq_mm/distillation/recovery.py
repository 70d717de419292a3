"""What a long run survives: steps that are not finite, and batches that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import PSAQError
from ..generation import NonFiniteLossError

T = TypeVar("T")

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


class MicroBatch:
    """How many images pass through a network together: half as many whenever memory runs out.

    Example: with 8 images of which 3 fit, calls are made with 8, 4 and 2; later ones begin with 2.

    Args:
        warn: Told of every halving.
        size: How many to begin with; None for all.

    Attributes:
        size: How many now.
    """

    def __init__(self, warn: Callable[[str], None], size: int | None = None) -> None:
        self.warn, self.size = warn, size

    def run(self, count: int, call: Callable[[int], T], undo: Callable[[], None] | None = None) -> T:
        """Make a call that takes so many images at a time, and again from the start where memory runs out.

        Args:
            count: How many images there are.
            call: Takes how many may pass together.
            undo: Takes back what a call that failed has changed.

        Returns:
            What the call returns.

        Raises:
            PSAQError: Memory runs out with a single image.
        """
        while True:
            size = min(self.size or count, count)
            try:
                return call(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Behind the block above, since the error's traceback holds what fills the memory.
            if size == 1:
                raise PSAQError("memory runs out with one image at a time: use smaller images (image_size)")
            if undo is not None:
                undo()
            self.size = (size + 1) // 2
            self.warn(f"memory ran out: going on with {self.size} images at a time, not {size}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
