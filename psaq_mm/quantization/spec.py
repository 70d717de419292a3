"""Quantization specs: immutable descriptions of a quantizer, without tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import QuantizationError
from ..utils.registry import Registry

# Here, since observers depend on specs; any class for the same reason.
OBSERVERS: Registry[Any] = Registry(
    "observer", QuantizationError, f"{__package__}.observers", {"ema": "use 'minmax', 'percentile' or 'mse'"}
)

MIN_BITS, MAX_BITS = 2, 8
GRANULARITIES = ("per_tensor", "per_channel")
GRIDS = ("uniform", "log2", "log_sqrt2")


@dataclass(frozen=True)
class QuantSpec:
    """The grid of a quantizer, its granularity and its range estimator.

    Integers of the uniform grid:

    ====  =======================  ===========  ==========
    bits  symmetric, narrow range  symmetric    asymmetric
    ====  =======================  ===========  ==========
    8     [-127, 127]              [-128, 127]  [0, 255]
    4     [-7, 7]                  [-8, 7]      [0, 15]
    2     [-1, 1]                  [-2, 1]      [0, 3]
    ====  =======================  ===========  ==========

    So 2 bits with a narrow range are ternary: every value becomes -scale, 0 or +scale.

    The grid ``'log2'`` is for values from 0 to 1, such as softmax outputs. Its integers, -(2^b - 1) to 0, are
    exponents. Up to 4 bits their base is 2, so the values of 4 bits are scale * {1, 1/2, 1/4, ..., 2^-14} and 0 in
    place of 2^-15. Each further bit halves the step between exponents instead of extending the grid to smaller values:
    6 bits have 4 steps from 1 to 1/2. The grid ``'log_sqrt2'`` has twice as many steps: 4 bits are
    scale * {1, 0.71, 1/2, 0.35, ..., 2^-7} and 0.

    Shapes: ``per_tensor`` has one scale of shape ``(1,)``. ``per_channel`` has one scale for each index of ``axis``: a
    Linear weight ``(out, in)`` with ``axis=0`` has ``out`` scales; tokens ``(batch, N, C)`` with ``axis=-1`` have C.

    Args:
        bits: Width of the integers, 2 to 8.
        symmetric: Zero point fixed at 0 (weights), or free (activations).
        granularity: ``'per_tensor'`` or ``'per_channel'``.
        axis: The dimension of the channels, may be negative; used by ``per_channel`` only.
        observer: Range estimator: ``'minmax'``, ``'percentile'``, ``'mse'`` or another registered name (see
            :mod:`psaq_mm.quantization.observers`).
        percentile: Per cent of the values that ``'percentile'`` clips on each side, 0 to 50.
        narrow_range: Leave out the lowest integer, so that a symmetric grid has as many steps below zero as above.
        grid: ``'uniform'``, or without zero point ``'log2'``, powers of two, or ``'log_sqrt2'``, powers of their root.
        migration: For an asymmetric ``per_channel`` spec: how far the scales follow the ranges of their channels, 0 to
            1 (see ``migrated_range``); at 1 each channel has its own range.
        rotation_axis: The dimension of the channels that are rotated before they are quantized (see
            :func:`.transforms.rotation.rotated`), None for no rotation. The grid, its ranges and ``per_channel`` scales
            are then those of the rotated values.

    Raises:
        QuantizationError: A value is outside its range, or the observer is not registered.
    """

    bits: int = 8
    symmetric: bool = False
    granularity: str = "per_tensor"
    axis: int = 0
    observer: str = "minmax"
    percentile: float = 0.05
    narrow_range: bool = False
    grid: str = "uniform"
    migration: float = 1.0
    rotation_axis: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise QuantizationError(f"bits={self.bits!r} is not valid: use an integer from {MIN_BITS} to {MAX_BITS}")
        if self.granularity not in GRANULARITIES:
            raise QuantizationError(f"granularity={self.granularity!r} is unknown: use one of {GRANULARITIES}")
        observer = OBSERVERS.get(self.observer)
        if not 0 <= self.percentile <= 50:
            raise QuantizationError(
                f"percentile={self.percentile!r} is not valid: use per cent from 0 to 50 (each side)"
            )
        if self.narrow_range and not self.symmetric:
            raise QuantizationError(
                "narrow_range=True needs symmetric=True: an asymmetric grid uses its lowest integer"
            )
        if not 0 <= self.migration <= 1:
            raise QuantizationError(f"migration={self.migration!r} is not valid: use a strength from 0 to 1")
        if self.grid not in GRIDS:
            raise QuantizationError(f"grid={self.grid!r} is unknown: use one of {GRIDS}")
        if self.logarithmic and (self.symmetric or self.per_channel):
            raise QuantizationError(
                f"grid={self.grid!r} has one scale and no sign: use symmetric=False and granularity='per_tensor'"
            )
        if self.logarithmic and self.rotation_axis is not None:
            raise QuantizationError(f"grid={self.grid!r} has no sign, rotated values have: use rotation_axis=None")
        if self.logarithmic and observer.uniform_grid_only:
            raise QuantizationError(
                f"grid={self.grid!r} can't be used with observer={self.observer!r}: use 'minmax' or 'percentile'"
            )

    @property
    def quant_min(self) -> int:
        """The lowest integer of the grid."""
        if self.logarithmic:
            return 1 - int(2**self.bits)
        return int(self.narrow_range) - int(2 ** (self.bits - 1)) if self.symmetric else 0

    @property
    def quant_max(self) -> int:
        """The highest integer of the grid."""
        if self.logarithmic:
            return 0
        return int(2 ** (self.bits - int(self.symmetric))) - 1

    @property
    def per_channel(self) -> bool:
        """Whether each index of ``axis`` has its own scale."""
        return self.granularity == "per_channel"

    @property
    def logarithmic(self) -> bool:
        """Whether the integers of the grid are exponents."""
        return self.grid != "uniform"

    @property
    def steps_per_octave(self) -> int:
        """Steps of a logarithmic grid from a value to its half.

        ``'log2'``: 1 up to 4 bits; 2, 4, 8, 16 at 5 to 8 bits. ``'log_sqrt2'``: twice as many.
        """
        return (1 + (self.grid == "log_sqrt2")) * int(2 ** max(0, self.bits - 4))


def weight_spec(bits: int = 8, observer: str = "minmax", axis: int = 0, percentile: float = 0.05) -> QuantSpec:
    """The spec of a weight: symmetric, narrow range, one scale per output channel."""
    return QuantSpec(bits, True, "per_channel", axis, observer, percentile, narrow_range=True)


def activation_spec(
    bits: int = 8,
    observer: str = "minmax",
    percentile: float = 0.05,
    granularity: str = "per_tensor",
    grid: str = "uniform",
) -> QuantSpec:
    """The spec of an activation: asymmetric, one scale per tensor or per channel of the last axis."""
    return QuantSpec(bits, False, granularity, -1, observer, percentile, grid=grid)
