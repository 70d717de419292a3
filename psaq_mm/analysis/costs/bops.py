"""Bit operations."""

from __future__ import annotations

from itertools import product

from .base import COSTS, FLOAT_BITS, Choice, Cost, Key, Measured, Option


@COSTS.register("bops")
class BitOperations(Cost):
    """For each multiplication of the quantized layers the product of the bits of its operands.

    The two operands of an attention product get the same bits.

    Example: weights of 4 bits and inputs of 8 bits are 32 / 1024 = 0.03125 of float32.
    """

    @classmethod
    def uniform(cls, bits: int) -> float:
        """See base class."""
        return (bits / FLOAT_BITS) ** 2

    @classmethod
    def choices(cls, measured: Measured) -> list[Choice]:
        """The pairs of widths of the operands of each layer."""
        layers = dict.fromkeys(layer for layer, _ in measured.scores if layer in measured.operations)
        found = []
        for layer in layers:
            if pair := measured.operands(layer):
                count = measured.operations[layer]
                found.append(Choice(pairs(*pair, count, measured), count * FLOAT_BITS**2))
        return found


def pairs(first: Key, second: Key, count: int, measured: Measured) -> list[Option]:
    """The options of a layer.

    Args:
        first: The weight, or the left operand.
        second: The input, or the right operand.
        count: Number of multiplications.
        measured: The sensitivities.
    """
    one, other = measured.scores[first], measured.scores[second]
    free = first[1] == "weight"
    return [
        Option({first: a, second: b}, count * a * b, one[a] + other[b])
        for a, b in product(one, other)
        if free or a == b
    ]
