"""The loss of accuracy to expect of a quantized model, from its distance to the float model without labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

# Measured losses below this share of the float model's figure count as this in a fit: they scatter around zero.
FLOOR = 0.003
# How much they scatter: root mean square of measured minus expected loss where less than FLOOR is expected
# (benchmarks/expected_loss.py).
NOISE = 0.004


class Estimate(NamedTuple):
    """A loss as a share of the float model's figure, with the ends of its error bar.

    Attributes:
        low: Lower end.
        expected: The most likely value.
        high: Upper end.
    """

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class LossCurve:
    """The share of a figure that is lost, as a function of the distance of the outputs from the float model's.

    With the distance x::

        loss = 1 - exp(-(x / scale)^power)

    It is near ``(x / scale)^power`` for small losses, and never above 1.

    Example: scale 2, power 1, x = 0.02: 1 - exp(-0.01) = 0.00995, one per cent of the figure.

    Attributes:
        distance: Which distance x is: ``'logits'`` or ``'features'`` of
            :class:`psaq_mm.analysis.sensitivity.Distances`.
        scale: Distance at which ``1 - 1/e`` is lost.
        power: Slope of the curve on logarithmic axes.
        spread: Standard deviation of the natural logarithm of measured by expected loss (:func:`log_spread`).
    """

    distance: str
    scale: float
    power: float
    spread: float

    def share(self, distance: float) -> float:
        """The expected loss at a distance."""
        return -math.expm1(-((distance / self.scale) ** self.power))

    def estimate(self, distance: float) -> Estimate:
        """The expected loss, with an error bar of one standard deviation on either side, but at least :data:`NOISE`."""
        expected, factor = self.share(distance), math.exp(self.spread)
        low, high = min(expected / factor, expected - NOISE), max(expected * factor, expected + NOISE)
        return Estimate(max(low, 0.0), expected, min(high, 1.0))


def fit(distance: str, points: Sequence[tuple[float, float]]) -> LossCurve:
    """Fit a curve to measured losses.

    The squared differences of the logarithms of measured and expected losses are minimised, both at least
    :data:`FLOOR`, with soft ends against outliers (``loss='soft_l1'``).

    Args:
        distance: Name of the distance.
        points: Distance and measured loss, a share of the float model's figure; at least three.
    """
    x = np.array([one for one, _ in points])
    measured = np.log(np.maximum([loss for _, loss in points], FLOOR))

    def residuals(parameters: Sequence[float]) -> np.ndarray:
        log_scale, power = parameters
        shares = -np.expm1(-((x / math.exp(log_scale)) ** power))
        return np.log(np.maximum(shares, FLOOR)) - measured

    found = least_squares(residuals, [0.0, 1.0], bounds=([-20, 0.25], [20, 4]), loss="soft_l1", f_scale=0.3)
    curve = LossCurve(distance, math.exp(found.x[0]), float(found.x[1]), 0.0)
    return replace(curve, spread=log_spread((loss, curve.share(one)) for one, loss in points))


def log_spread(pairs: Iterable[tuple[float, float]]) -> float:
    """The root mean square of the logarithm of measured by expected loss, both at least :data:`FLOOR`.

    Example: measured 0.02 and 0.1, expected 0.04 and 0.1: sqrt(log(2)^2 / 2) = 0.49.
    """
    ratios = [math.log(max(measured, FLOOR) / max(expected, FLOOR)) for measured, expected in pairs]
    return math.sqrt(sum(one**2 for one in ratios) / len(ratios))


def held_out(distance: str, groups: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, list[float]]:
    """The losses that are expected of each group's points by a curve fitted to all other groups.

    Args:
        distance: Name of the distance.
        groups: The points of each model, as for :func:`fit`.
    """
    return {name: [fit(distance, others(groups, name)).share(x) for x, _ in points] for name, points in groups.items()}


def others(groups: Mapping[str, Sequence[tuple[float, float]]], name: str) -> list[tuple[float, float]]:
    """The points of all groups but one."""
    rest: Iterable[Sequence[tuple[float, float]]] = (points for key, points in groups.items() if key != name)
    return [point for points in rest for point in points]


# By figure, best distance first: fitted to the records in results/ by benchmarks/expected_loss.py.
CURVES: dict[str, tuple[LossCurve, ...]] = {
    "top1": (
        LossCurve("features", 1.497, 1.893, 0.8069),
        LossCurve("logits", 1.795, 1.673, 0.8289),
    ),
    "mIoU": (LossCurve("logits", 1.631, 0.8062, 0.4943),),
    "bbox_mAP": (
        LossCurve("logits", 1.223, 0.7898, 0.5399),
        LossCurve("features", 15.76, 0.641, 1.252),
    ),
    "segm_mAP": (
        LossCurve("logits", 0.33, 1.257, 0.3339),
        LossCurve("features", 1.169, 1.493, 0.9555),
    ),
}
