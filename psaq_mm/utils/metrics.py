"""Titles and formats of the evaluators' metrics in tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """Title and format of a metric.

    Attributes:
        title: Its name in tables.
        digits: Decimals of a single value.
        mean_digits: Decimals of a mean over seeds and of a difference; None for ``digits``.
        unit: Text that follows the title in a caption; empty if none is needed.
        host: The library of the evaluator; empty for our own metrics.
        host_units: Replaces ``unit`` in tables with metrics of a library, for metrics that depend on the task.
    """

    title: str
    digits: int = 2
    mean_digits: int | None = None
    unit: str = ""
    host: str = ""
    host_units: Mapping[str, str] = field(default_factory=dict, hash=False)

    def unit_beside(self, others: Iterable[Metric]) -> str:
        """The text that follows the title in the caption of a table with other metrics."""
        return next((self.host_units[one.host] for one in others if one.host in self.host_units), self.unit)

    def show(self, figure: float, mean: bool = False, sign: str = "") -> str:
        """Format a value.

        Args:
            figure: The value.
            mean: Whether it is a mean over seeds or a difference of means.
            sign: ``'+'`` to show the sign of a difference.
        """
        digits = self.mean_digits if mean and self.mean_digits is not None else self.digits
        return f"{figure:{sign}.{digits}f}"


PERCENT = "in percent, differences in points"
# What AgreementHook compares, by the library of the table's other metrics.
AGREEMENT = {
    "mmpretrain": "is the share of images with the float model's top-1, " + PERCENT,
    "mmseg": "is the share of pixels with the float model's class, " + PERCENT,
    "mmdet": "is the F1 score of detections that match the float model's in label and box (IoU of at least 0.5, scores "
    "of at least 0.3), " + PERCENT,
}
# By the last part of the evaluator's key. COCO's evaluation rounds to three digits; means over seeds have four.
METRICS = {
    "mAP": Metric("AP", 3, 4, host="mmdet"),
    "bbox_mAP": Metric("box AP", 3, 4, host="mmdet"),
    "segm_mAP": Metric("mask AP", 3, 4, host="mmdet"),
    "mIoU": Metric("mIoU", unit=PERCENT, host="mmseg"),
    "aAcc": Metric("pixel accuracy", unit=PERCENT, host="mmseg"),
    "top1": Metric("top-1", unit=PERCENT, host="mmpretrain"),
    "agreement": Metric("agreement", unit="with the float model, " + PERCENT, host_units=AGREEMENT),
    "kl": Metric("KL", 4, unit="is the divergence from the float model's class probabilities"),
}


def metric_of(key: str) -> Metric | None:
    """The metric of an evaluator's key such as ``coco/bbox_mAP``; None for keys that tables do not show."""
    return METRICS.get(key.rpartition("/")[2])
