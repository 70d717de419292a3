"""Range estimator ``'percentile'``."""

from __future__ import annotations

from torch import Tensor

from .base import Observer, register_observer, subsample


@register_observer("percentile")
class PercentileObserver(Observer):
    """Clips ``spec.percentile`` per cent of the values on each side; mean over the batches.

    Of n values, ``c = floor((n - 1) * percentile / 100)`` are clipped on each side, and the range ends at the next
    value. Example: of 1000 values at 0.5 per cent, the 4 lowest and the 4 highest are clipped.
    """

    def estimate(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The (c + 1)-th lowest and highest value of each row (subsampled, see :func:`subsample`)."""
        rows = subsample(rows)
        rank = int((rows.shape[1] - 1) * self.spec.percentile / 100) + 1
        # topk and not quantile: it is exact for any size, and sorting a million values for each tensor is slow.
        low = rows.topk(rank, dim=1, largest=False, sorted=False).values.amax(dim=1)
        high = rows.topk(rank, dim=1, sorted=False).values.amin(dim=1)
        return low, high
