"""Range estimators: what range a quantizer should cover, from the batches it saw.

All work on *rows*: a tensor per tensor is one row, per channel it is one row for each channel, so that an estimator is
written once for both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed

from ..errors import QuantizationError
from .functional import affine_parameters, power_of_two
from .spec import QuantSpec

SAMPLE_SIZE = 2**20
MIN_ROW_SIZE = 2**14
CLIP_RATIOS = 31
LOWEST_RATIO = 0.4


def rows_of(x: Tensor, spec: QuantSpec) -> Tensor:
    """``x`` as float32 of shape ``(1, numel)`` per tensor, ``(channels, numel / channels)`` per channel."""
    x = x.detach().float()
    return x.movedim(spec.axis, 0).reshape(x.shape[spec.axis], -1) if spec.per_channel else x.reshape(1, -1)


def subsample(rows: Tensor) -> Tensor:
    """Every k-th value of each row: about ``SAMPLE_SIZE`` values in all, but at least ``MIN_ROW_SIZE`` of each row.

    A fixed stride and not a random subset: random percentiles move a 4-bit network's accuracy by 5 points from run to
    run. The stride shares no factor with the row: a divisor of the tensor's width would meet the same few channels over
    and over. Usual weights are short enough to be used whole.
    """
    keep = max(MIN_ROW_SIZE, SAMPLE_SIZE // rows.shape[0])
    stride = -(-rows.shape[1] // keep)
    while stride > 1 and math.gcd(stride, rows.shape[1]) > 1:
        stride += 1
    return rows[:, ::stride]


class Observer:
    """Base of the estimators: estimates each batch's range and merges it into the running one.

    Subclasses override ``estimate`` (default: the batch's minimum and maximum) or ``merge`` (default: the mean over the
    batches). ``batches`` counts the batches seen.
    """

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec
        self.batches = 0
        self.low = torch.empty(0)
        self.high = torch.empty(0)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Takes one batch into account.

        Args:
            x: Any shape that has the spec's axis.

        Raises:
            QuantizationError: The batch is empty or holds NaN or infinity.
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
        """The range over all batches, two tensors of shape ``(1,)`` or ``(channels,)``.

        Raises:
            QuantizationError: No batch was seen.
        """
        if self.batches == 0:
            raise QuantizationError("an observer saw no data: run the model on calibration samples first")
        return self.low, self.high

    def reduce(self) -> None:
        """Merges with the observers of all other processes of ``torch.distributed``, which saw other batches.

        Estimators that average over batches average over those of all processes, with ``n_p`` batches in process p::

            range = sum_p n_p range_p / sum_p n_p

        Raises:
            QuantizationError: The estimator depends on the order of the batches.
        """
        total = torch.tensor(float(self.batches), device=self.low.device)
        self.low, self.high = self.low * total, self.high * total
        for one in (total, self.low, self.high):
            distributed.all_reduce(one)
        self.low, self.high = self.low / total, self.high / total

    def estimate(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The range of one batch, given its rows and their minima and maxima."""
        return low, high

    def merge(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The running range after a batch with the range ``(low, high)``."""
        return self._average(low, high, 1 / (self.batches + 1))

    def _average(self, low: Tensor, high: Tensor, share: float) -> tuple[Tensor, Tensor]:
        return torch.lerp(self.low, low, share), torch.lerp(self.high, high, share)


class MinMaxObserver(Observer):
    """The smallest and the largest value over all batches."""

    def merge(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See base class."""
        return torch.minimum(self.low, low), torch.maximum(self.high, high)

    def reduce(self) -> None:
        """The extremes over all processes."""
        self.low, self.high = self.low.clone(), self.high.clone()
        distributed.all_reduce(self.low, distributed.ReduceOp.MIN)
        distributed.all_reduce(self.high, distributed.ReduceOp.MAX)


class EMAObserver(Observer):
    """Exponential moving average of the batches' minima and maxima: ``momentum * old + (1 - momentum) * batch``."""

    def merge(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See base class."""
        return self._average(low, high, 1 - self.spec.momentum)

    def reduce(self) -> None:
        """Refused: the average depends on the order of the batches, and processes have no common one."""
        raise QuantizationError(
            "range estimator 'ema' depends on the order of the batches, which several processes do not share: "
            "use 'minmax', 'percentile' or 'mse', or one process"
        )


class PercentileObserver(Observer):
    """Cuts ``spec.percentile`` per cent of the values on each side, averaged over the batches.

    Of n values, ``c = floor((n - 1) * percentile / 100)`` are cut on each side and the range ends at the next one:
    1000 values at 0.5 % lose the 4 lowest and the 4 highest.
    """

    def estimate(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See base class."""
        rows = subsample(rows)
        rank = int((rows.shape[1] - 1) * self.spec.percentile / 100) + 1
        # topk and not quantile: exact for any size, and a sort of a million values for each tensor is slow.
        low = rows.topk(rank, dim=1, largest=False, sorted=False).values.amax(dim=1)
        high = rows.topk(rank, dim=1, sorted=False).values.amin(dim=1)
        return low, high


class MSEObserver(Observer):
    """Shrinks the min-max range by the ratio that loses least, averaged over the batches.

    For each row, of 31 ratios from 0.4 to 1 the one with the smallest ``sum (x - fake_quantize(x))^2``; ties go to the
    larger range. Both ends shrink alike.
    """

    def estimate(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See base class."""
        sample, (low, high), unit = self.in_units(subsample(rows), low, high)
        best = torch.full_like(low, torch.inf)
        ratio = torch.ones_like(low)
        for candidate in torch.linspace(1, LOWEST_RATIO, CLIP_RATIOS).tolist():
            scale, zero_point = affine_parameters(low * candidate, high * candidate, self.spec)
            quantized = torch.fake_quantize_per_channel_affine(
                sample, scale, zero_point.int(), 0, self.spec.quant_min, self.spec.quant_max
            )
            loss = (sample - quantized).square().sum(dim=1)
            better = loss < best
            best = torch.where(better, loss, best)
            ratio = torch.where(better, candidate, ratio)
        return low * ratio * unit, high * ratio * unit

    @staticmethod
    def in_units(sample: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Rows and ranges by a power of two of each row's size, so that no square overflows or vanishes."""
        unit = power_of_two(torch.stack([low, high], dim=1), dim=1)
        return sample / unit, (low / unit[:, 0], high / unit[:, 0]), unit[:, 0]


_OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMaxObserver,
    "ema": EMAObserver,
    "percentile": PercentileObserver,
    "mse": MSEObserver,
}


def make_observer(spec: QuantSpec) -> Observer:
    """The estimator that ``spec.range`` names."""
    return _OBSERVERS[spec.range](spec)
