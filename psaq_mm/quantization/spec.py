"""What a quantizer is asked to do: an immutable description without tensors."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import QuantizationError

MIN_BITS, MAX_BITS = 2, 8
GRANULARITIES = ("per_tensor", "per_channel")
RANGES = ("minmax", "ema", "percentile", "mse")
GRIDS = ("uniform", "log2")


@dataclass(frozen=True)
class QuantSpec:
    """A quantizer: its grid, how many scales it has and how its range is estimated.

    | bits | symmetric, narrow | symmetric | asymmetric |
    |------|-------------------|-----------|------------|
    | 8    | [-127, 127]       | [-128, 127] | [0, 255] |
    | 4    | [-7, 7]           | [-8, 7]     | [0, 15]  |
    | 2    | [-1, 1]           | [-2, 1]     | [0, 3]   |

    So two narrow bits are ternary: every value becomes -scale, 0 or +scale.

    The grid ``'log2'`` is for values from 0 to 1, a softmax's: its integers, -(2^b - 1) to 0, are exponents. Up to 4
    bits they are of 2, so that 4 bits are scale * {1, 1/2, 1/4, ..., 2^-14} and, in place of 2^-15, zero. Each further
    bit halves the step instead of going on to values that nobody needs: 6 bits have 4 steps from 1 to 1/2.

    Shapes: ``per_tensor`` has one scale of shape ``(1,)``. ``per_channel`` has one scale for each index of ``axis``: a
    Linear weight ``(out, in)`` with ``axis=0`` has ``out`` scales; tokens ``(batch, N, C)`` with ``axis=-1`` have C.

    Args:
        bits: Width of the integers, 2 to 8.
        symmetric: Zero point fixed at 0 (weights), or free (activations).
        granularity: ``'per_tensor'`` or ``'per_channel'``.
        axis: The dimension that has its own scales; read by ``per_channel`` only, may be negative.
        range: Estimator of the range: ``'minmax'``, ``'ema'``, ``'percentile'`` or ``'mse'`` (see ``observers``).
        percentile: Per cent of the values that ``'percentile'`` cuts on each side, 0 to 50.
        momentum: Share of the old range that ``'ema'`` keeps at each batch, at least 0 and below 1.
        narrow: Leave out the lowest integer, so that a symmetric grid has as many steps below zero as above.
        grid: ``'uniform'``, or ``'log2'``: powers of two, without zero point.
        migration: Of an asymmetric ``per_channel``: how far the scales follow their channels' ranges, 0 to 1 (see
            ``migrated_range``); 1 leaves every channel its own range.

    Raises:
        QuantizationError: A value is outside its range.
    """

    bits: int = 8
    symmetric: bool = False
    granularity: str = "per_tensor"
    axis: int = 0
    range: str = "minmax"
    percentile: float = 0.05
    momentum: float = 0.9
    narrow: bool = False
    grid: str = "uniform"
    migration: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise QuantizationError(f"bits={self.bits!r} is not valid: use an integer from {MIN_BITS} to {MAX_BITS}")
        if self.granularity not in GRANULARITIES:
            raise QuantizationError(f"granularity={self.granularity!r} is unknown: use one of {GRANULARITIES}")
        if self.range not in RANGES:
            raise QuantizationError(f"range={self.range!r} is unknown: use one of {RANGES}")
        if not 0 <= self.percentile <= 50:
            raise QuantizationError(
                f"percentile={self.percentile!r} is not valid: use per cent from 0 to 50 (each side)"
            )
        if not 0 <= self.momentum < 1:
            raise QuantizationError(f"momentum={self.momentum!r} is not valid: use at least 0 and below 1")
        if self.narrow and not self.symmetric:
            raise QuantizationError(
                "narrow=True needs symmetric=True: an asymmetric grid has no lowest integer to spare"
            )
        if not 0 <= self.migration <= 1:
            raise QuantizationError(f"migration={self.migration!r} is not valid: use a strength from 0 to 1")
        if self.grid not in GRIDS:
            raise QuantizationError(f"grid={self.grid!r} is unknown: use one of {GRIDS}")
        if self.log2 and (self.symmetric or self.per_channel or self.range == "mse"):
            raise QuantizationError(
                "grid='log2' has one scale, no sign and no range 'mse': leave the others as they are"
            )

    @property
    def quant_min(self) -> int:
        """The lowest integer of the grid."""
        if self.log2:
            return 1 - 2**self.bits
        return -(2 ** (self.bits - 1)) + int(self.narrow) if self.symmetric else 0

    @property
    def quant_max(self) -> int:
        """The highest integer of the grid."""
        if self.log2:
            return 0
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    @property
    def per_channel(self) -> bool:
        """Whether each index of ``axis`` has its own scale."""
        return self.granularity == "per_channel"

    @property
    def log2(self) -> bool:
        """Whether the grid is of powers of two."""
        return self.grid == "log2"

    @property
    def octave(self) -> int:
        """Steps of the grid ``log2`` from a value to its half: 1 up to 4 bits, 2, 4, 8, 16 at 5 to 8."""
        return 2 ** max(0, self.bits - 4)


def weight_spec(bits: int = 8, range: str = "minmax", axis: int = 0, percentile: float = 0.05) -> QuantSpec:
    """A weight's spec: symmetric, narrow, one scale per output channel."""
    return QuantSpec(bits, True, "per_channel", axis, range, percentile, narrow=True)


def activation_spec(
    bits: int = 8,
    range: str = "minmax",
    percentile: float = 0.05,
    momentum: float = 0.9,
    granularity: str = "per_tensor",
    grid: str = "uniform",
) -> QuantSpec:
    """An activation's spec: asymmetric, one scale for the tensor or one for each of its channels, the last axis."""
    return QuantSpec(bits, False, granularity, -1, range, percentile, momentum, grid=grid)
