"""The base class of range estimators.

Estimators work on *rows*: a tensor quantized per tensor is one row, a tensor quantized per channel has one row for each
channel. Each estimator is therefore written once for both granularities.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, distributed

from ...errors import QuantizationError
from ..spec import OBSERVERS, QuantSpec

SAMPLE_SIZE = 2**20
MIN_ROW_SIZE = 2**14

register_observer = OBSERVERS.register


def make_observer(spec: QuantSpec) -> Observer:
    """A new observer of the class registered as ``spec.observer``.

    Raises:
        QuantizationError: No class is registered under the name.
    """
    cls: type[Observer] = OBSERVERS.get(spec.observer)
    return cls(spec)


def rows_of(x: Tensor, spec: QuantSpec) -> Tensor:
    """``x`` as float32 of shape ``(1, numel)`` per tensor, ``(channels, numel / channels)`` per channel."""
    x = x.detach().float()
    return x.movedim(spec.axis, 0).reshape(x.shape[spec.axis], -1) if spec.per_channel else x.reshape(1, -1)


def subsample(rows: Tensor) -> Tensor:
    """Every k-th value of each row: about ``SAMPLE_SIZE`` values in total, at least ``MIN_ROW_SIZE`` of each row.

    The stride is fixed, because percentiles of random subsets change a 4-bit network's accuracy by 5 points from run to
    run. It has no common factor with the length of the row: a stride that divides the tensor's width would take the
    values of the same few channels only. Weights of the usual sizes are used completely.

    Args:
        rows: ``(rows, length)``.

    Returns:
        ``(rows, ceil(length / k))``.
    """
    keep = max(MIN_ROW_SIZE, SAMPLE_SIZE // rows.shape[0])
    stride = -(-rows.shape[1] // keep)
    while stride > 1 and math.gcd(stride, rows.shape[1]) > 1:
        stride += 1
    return rows[:, ::stride]


class Observer:
    """Base class of the range estimators: estimates the range of each batch and merges it into the running range.

    Subclasses override ``estimate`` (default: minimum and maximum of the batch) and ``merge`` (default: mean over the
    batches). One whose ``merge`` isn't a mean overrides ``all_reduce`` as well.

    Attributes:
        uniform_grid_only: Whether the estimator cannot be used with a logarithmic grid.
        batches: Number of batches observed.

    Args:
        spec: The quantizer's spec.
    """

    uniform_grid_only: ClassVar[bool] = False

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec
        self.batches = 0
        self.low = torch.empty(0)
        self.high = torch.empty(0)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Includes one batch in the running range.

        Args:
            x: Any shape that has the spec's axis.

        Raises:
            QuantizationError: The batch is empty or contains NaN or infinity.
        """
        if x.numel() == 0:
            raise QuantizationError("an observer got an empty batch: calibrate on non-empty inputs")
        rows = rows_of(x, self.spec)
        low, high = rows.aminmax(dim=1)
        if not bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
            raise QuantizationError("an observer got NaN or infinity: check the calibration inputs and the float model")
        low, high = self.estimate(rows, low, high)
        self.low, self.high = (low, high) if self.batches == 0 else self.merge(low, high)
        self.batches += 1

    def range(self) -> tuple[Tensor, Tensor]:
        """The lower and upper end over all batches, shape ``(1,)`` or ``(channels,)`` each.

        Raises:
            QuantizationError: No batch was observed.
        """
        if self.batches == 0:
            raise QuantizationError("an observer saw no data: run the model on calibration samples first")
        return self.low, self.high

    def all_reduce(self) -> None:
        """Merges the range with those of all other processes of ``torch.distributed``, which observed other batches.

        The mean over all batches, with ``n_p`` batches in process p::

            range = sum_p n_p range_p / sum_p n_p

        All processes must call it, and each must have observed at least one batch.
        """
        total = torch.tensor(float(self.batches), device=self.low.device)
        self.low, self.high = self.low * total, self.high * total
        for one in (total, self.low, self.high):
            distributed.all_reduce(one)
        self.low, self.high = self.low / total, self.high / total

    def estimate(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The range of one batch.

        Args:
            rows: The batch, ``(rows, length)``.
            low: Minimum of each row, ``(rows,)``.
            high: Maximum of each row, ``(rows,)``.

        Returns:
            Lower and upper end for each row, ``(rows,)`` each.
        """
        return low, high

    def merge(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The running range after a batch with the range ``(low, high)``; not called for the first batch."""
        share = 1 / (self.batches + 1)
        return torch.lerp(self.low, low, share), torch.lerp(self.high, high, share)
