"""Histograms of the values that quantizers round, with the ranges of their grids."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..quantization import Quantizer, QuantSpec, WeightQuantizer, quantizers
from ..quantization.functional import usable_scale
from ..quantization.observers import rows_of
from ..quantization.transforms.rotation import rotated
from .contents import Histogram

BINS = 80
# Shown beyond the grid on each side, as a share of its width.
MARGIN = 0.25
SHOWN = 12


class Tally:
    """Counts the values of one quantizer in bins of equal width, batch after batch.

    The bins cover the grid and a quarter of its width on each side. Values outside are counted, so that memory does not
    depend on the number of values. With one scale a channel, values are counted in steps: ``x / scale + zero_point``,
    in which the grid of every channel is ``[quant_min, quant_max]``.

    Args:
        quantizer: A calibrated quantizer.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self.low, self.high, step = grid_of(quantizer)
        self.half = step / 2
        margin = MARGIN * (self.high - self.low)
        self.start = as_float32(self.low if quantizer.spec.logarithmic else self.low - margin)
        self.stop = as_float32(self.high + margin)
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.below = self.above = self.clipped = 0
        self.minimum, self.maximum = math.inf, -math.inf

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Count the values of a tensor as it enters the quantizer."""
        values = self.in_unit(x)
        if not values.numel():
            return
        self.counts += torch.histc(values, BINS, self.start, self.stop).to("cpu", torch.int64)
        self.below += int((values < self.start).sum())
        self.above += int((values > self.stop).sum())
        self.clipped += int(((values < self.low - self.half) | (values > self.high + self.half)).sum())
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))

    def in_unit(self, x: Tensor) -> Tensor:
        """The values that are rounded: rotated where the spec says so, in steps if each channel has a scale."""
        quantizer, spec = self.quantizer, self.quantizer.spec
        values = x.detach().float()
        if spec.rotation_axis is not None:
            values = rotated(values, spec.rotation_axis)
        if not spec.per_channel:
            return values
        scale, zero_point = (one.float()[:, None] for one in (usable_scale(quantizer.scale), quantizer.zero_point))
        return rows_of(values, spec) / scale + rounded_zero_point(zero_point, spec)

    def histogram(self, name: str) -> Histogram:
        """The histogram under a name."""
        quantizer = self.quantizer
        scales = usable_scale(quantizer.scale).float()
        return Histogram(
            name=name,
            kind="weight" if isinstance(quantizer, WeightQuantizer) else "activation",
            bits=quantizer.spec.bits,
            sqnr=quantizer.sqnr,
            unit="step" if quantizer.spec.per_channel else "value",
            low=self.low,
            high=self.high,
            scale=float(scales.median()),
            scales=scales.numel(),
            start=self.start,
            stop=self.stop,
            counts=tuple(self.counts.tolist()),
            below=self.below,
            above=self.above,
            clipped=self.clipped,
            minimum=self.minimum,
            maximum=self.maximum,
        )


def as_float32(value: float) -> float:
    """The nearest float32: ``torch.histc`` and comparisons must agree on the ends of the bins."""
    return float(torch.tensor(value, dtype=torch.float32))


def rounded_zero_point(zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """The zero point that ``fake_quantize`` uses."""
    return zero_point.detach().float().round().clamp(spec.quant_min, spec.quant_max)


def grid_of(quantizer: Quantizer) -> tuple[float, float, float]:
    """The lower and upper end of a quantizer's grid and its step, in values or, per channel, in steps.

    The step of a grid of powers of two is that at its upper end.

    Example: scale 0.5, zero point 1, 2 bits asymmetric: from -0.5 to 1.0 in steps of 0.5.
    """
    spec = quantizer.spec
    if spec.per_channel:
        return float(spec.quant_min), float(spec.quant_max), 1.0
    scale = float(usable_scale(quantizer.scale))
    if spec.logarithmic:
        return 0.0, scale, scale * (1 - 2.0 ** (-1 / spec.steps_per_octave))
    zero_point = float(rounded_zero_point(quantizer.zero_point, spec))
    return (spec.quant_min - zero_point) * scale, (spec.quant_max - zero_point) * scale, scale


def lowest(model: nn.Module, count: int = SHOWN) -> dict[str, Quantizer]:
    """The quantizers with the lowest SQNR: half of them of weights, half of activations, as far as there are so many.

    Args:
        model: A calibrated model.
        count: Number of quantizers.

    Returns:
        By the name of the tensor, weights first, each by rising SQNR.
    """
    measured = [(name, one) for name, one in quantizers(model) if one.sqnr is not None and one.enabled]
    measured.sort(key=lambda pair: pair[1].sqnr or 0.0)
    weights = [pair for pair in measured if isinstance(pair[1], WeightQuantizer)]
    others = [pair for pair in measured if not isinstance(pair[1], WeightQuantizer)]
    half = max(count // 2, count - len(others))
    chosen = weights[:half]
    return {name.removesuffix("_quantizer"): one for name, one in [*chosen, *others[: count - len(chosen)]]}


def collect(model: nn.Module, run: Callable[[], None], count: int = SHOWN) -> tuple[Histogram, ...]:
    """Count the values of the quantizers with the lowest SQNR while a function runs the model.

    Args:
        model: A calibrated model.
        run: Runs the model on samples.
        count: Number of quantizers.

    Returns:
        Their histograms; quantizers that got no values are left out.
    """
    tallies = {name: Tally(quantizer) for name, quantizer in lowest(model, count).items()}

    def counting(tally: Tally) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # A weight is the same in every batch.
            if not isinstance(quantizer, WeightQuantizer) or tally.minimum > tally.maximum:
                tally.add(inputs[0])

        return before

    handles = [tally.quantizer.register_forward_pre_hook(counting(tally)) for tally in tallies.values()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return tuple(tally.histogram(name) for name, tally in tallies.items() if tally.minimum <= tally.maximum)
