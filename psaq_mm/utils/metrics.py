"""How tables show the figures of evaluators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How tables show an evaluator's figure.

    Attributes:
        title: Its name in the README.
        digits: Digits after the point of one figure.
        mean_digits: Those of a mean over seeds and of a difference, where they are others.
        unit: What follows its title in the README's caption; empty for what needs no word.
        host: The library whose evaluator gives it; empty for our own.
    """

    title: str
    digits: int = 2
    mean_digits: int | None = None
    unit: str = ""
    host: str = ""

    def show(self, figure: float, mean: bool = False, sign: str = "") -> str:
        """The figure with its digits; ``sign='+'`` for a difference."""
        digits = self.mean_digits if mean and self.mean_digits is not None else self.digits
        return f"{figure:{sign}.{digits}f}"


PERCENT = "in percent, differences in points"
# By the last part of the evaluator's key. COCO's evaluation rounds to three digits, which a mean over seeds exceeds.
METRICS = {
    "mAP": Metric("AP", 3, 4, host="mmdet"),
    "bbox_mAP": Metric("box AP", 3, 4, host="mmdet"),
    "segm_mAP": Metric("mask AP", 3, 4, host="mmdet"),
    "mIoU": Metric("mIoU", unit=PERCENT, host="mmseg"),
    "aAcc": Metric("pixel accuracy", unit=PERCENT, host="mmseg"),
    "top1": Metric("top-1", unit=PERCENT, host="mmpretrain"),
    "agreement": Metric("agreement", unit="is the share of images with the float model's top-1, " + PERCENT),
    "kl": Metric("KL", 4, unit="is the divergence from the float model's class probabilities"),
}


def metric_of(key: str) -> Metric | None:
    """How to show the figure of an evaluator's key such as ``coco/bbox_mAP``; None for one that gets no column."""
    return METRICS.get(key.rpartition("/")[2])
