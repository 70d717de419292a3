"""The size of the weights."""

from __future__ import annotations

from .base import COSTS, FLOAT_BITS, Choice, Cost, Measured, Option


@COSTS.register("size")
class Size(Cost):
    """The bits of all weights of the quantized layers.

    Example: 4 bits everywhere are 4 / 32 = 0.125 of float32.
    """

    tensors = ("all", "weights")

    @classmethod
    def uniform(cls, bits: int) -> float:
        """See base class."""
        return bits / FLOAT_BITS

    @classmethod
    def choices(cls, measured: Measured) -> list[Choice]:
        """The widths of each weight."""
        return [
            Choice(
                [Option({key: bits}, count * bits, value) for bits, value in measured.scores[key].items()],
                count * FLOAT_BITS,
            )
            for key, count in measured.parameters.items()
        ]
