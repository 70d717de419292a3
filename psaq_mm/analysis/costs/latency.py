"""The time of the layers in an engine."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import UsageError
from .base import COSTS, FLOAT_BITS, Choice, Cost, Key, Measured, Option


@COSTS.register("latency")
class Latency(Cost):
    """The time of the quantized layers in an engine.

    Engines multiply either integers, stored as INT8 whatever their bits, or floats. A layer therefore has two options:
    floating point, without error, or integers, with the widths whose sensitivities have the least sum. Layers without
    times, or of which an operand was not measured, are not counted and keep the recipe's bits.

    Example: layers of 2 and 1 ms in float32, 1 and 0.8 ms in integers, with equal sensitivities. For 0.7 of 3 ms the
    first one gets integers and the second one stays in floating point: 2 ms.
    """

    advice = "raise it, since integers make the layers no faster in this engine"

    @classmethod
    def check(cls, share: float, widths: Iterable[int]) -> None:
        """See base class."""
        if share >= 1:
            raise UsageError(f"budget latency={share:g} is met by floating point: give a share below 1")

    @classmethod
    def choices(cls, measured: Measured) -> list[Choice]:
        """Floating point and integers, without the one that costs more and is no nearer to the float model."""
        found = []
        for layer, seconds in measured.times.items():
            if measured.operands(layer) is None:
                continue
            whole = seconds[str(FLOAT_BITS)]
            bits, score = least_sensitive(layer, measured)
            integers = Option(bits, seconds.get("8", whole), score)
            floating = Option(dict.fromkeys(bits, FLOAT_BITS), whole, 0.0)
            if integers.cost >= whole:
                found.append(Choice([floating], whole))
            else:
                found.append(Choice([integers, floating] if score > 0 else [integers], whole))
        return found


def least_sensitive(layer: str, measured: Measured) -> tuple[dict[Key, int], float]:
    """The widths of a layer's tensors whose sensitivities have the least sum, and this sum.

    All activations of a layer have the same width, as in a recipe. Of equal sums, that of more bits is taken.
    """
    keys = [key for key in measured.scores if key[0] == layer]
    bits: dict[Key, int] = {}
    total = 0.0
    for group in ([key for key in keys if key[1] == "weight"], [key for key in keys if key[1] != "weight"]):
        if not group:
            continue
        common = set.intersection(*(set(measured.scores[key]) for key in group))
        sums = {width: sum(measured.scores[key][width] for key in group) for width in common}
        best = min(sums, key=lambda width: (sums[width], -width))
        bits |= dict.fromkeys(group, best)
        total += sums[best]
    return bits, total
