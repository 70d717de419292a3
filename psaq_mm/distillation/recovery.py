"""Recovery from non-finite steps and from batches that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import PSAQError
from ..generation import NonFiniteLossError

T = TypeVar("T")

# Number of consecutive failed steps that stops a run.
LIMIT = 5


class Backoff:
    """Skips non-finite steps and halves the learning rate after each; too many in a row are an error.

    Example: two failures and a good step leave ``scale`` at 0.25. Of five further failures in a row the first four are
    skipped and the fifth raises.

    Args:
        warn: Called with a message for each skipped step.
        scale: Initial factor on the learning rate.

    Attributes:
        scale: Factor on the learning rate, a power of 1/2; it is not raised again.
        failures: Number of failed steps since the last good one.
    """

    def __init__(self, warn: Callable[[str], None], scale: float = 1.0) -> None:
        self.warn, self.scale, self.failures = warn, scale, 0

    def failed(self, error: NonFiniteLossError) -> None:
        """Record a non-finite step.

        Raises:
            NonFiniteLossError: ``error``, when :data:`LIMIT` steps in a row have failed.
        """
        self.failures += 1
        if self.failures >= LIMIT:
            raise error
        self.scale /= 2
        self.warn(f"{error}: step skipped, learning rate halved ({self.failures} of {LIMIT} in a row)")

    def passed(self) -> None:
        """Record a finite step."""
        self.failures = 0


class MicroBatch:
    """The number of images per forward pass, halved whenever memory runs out.

    Example: if 3 of 8 images fit into memory, a call is tried with 8, 4 and 2 images; later calls start with 2.

    Args:
        warn: Called with a message after each halving.
        size: Initial number of images; None for all.

    Attributes:
        size: Current number of images; None for all.
    """

    def __init__(self, warn: Callable[[str], None], size: int | None = None) -> None:
        self.warn, self.size = warn, size

    def run(self, count: int, call: Callable[[int], T], undo: Callable[[], None] | None = None) -> T:
        """Make a call; repeat it with half as many images per forward pass when memory runs out.

        Args:
            count: Number of images.
            call: The call; its argument is the number of images per forward pass.
            undo: Reverts the changes of a failed call.

        Returns:
            The result of the call.

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
            # Outside the except block, because the traceback of the error keeps the large tensors alive.
            if size == 1:
                raise PSAQError("memory runs out with one image at a time: use smaller images (image_size)")
            if undo is not None:
                undo()
            self.size = (size + 1) // 2
            self.warn(f"memory ran out: going on with {self.size} images at a time, not {size}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a GPU or of the host ran out."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
