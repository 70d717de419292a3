"""The README's table: one row a task, one figure a cell, each the mean over the seeds of a record in ``results/``."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from dev.report import headline, main_arm, read_results, values
from psaq_mm.visualization.record_tables import markdown


@dataclass(frozen=True)
class Task:
    """A row.

    Attributes:
        title: The task, the model and the data.
        record: The name of the record.
        figure: The last part of the evaluator's key, such as ``bbox_mAP``.
    """

    title: str
    record: str
    figure: str


TASKS = (
    Task("Classification: DeiT-T, sample of ImageNet", "imagenet_deit_tiny", "top1"),
    Task("Saliency: DINOv2-S, agreement with the float model", "dinov2_saliency", "mIoU"),
    Task("Instance segmentation: Mask R-CNN with DeiT-T, nuclei", "nuclei_mask_rcnn_deit", "segm_mAP"),
    Task("Semantic segmentation: UPerNet with DeiT-T, nuclei", "nuclei_upernet_deit", "mIoU"),
    Task("Instance segmentation: Mask R-CNN with a small Swin, nuclei", "nuclei_mask_rcnn", "segm_mAP"),
    Task("Detection: Mask R-CNN with a small Swin, drawn scenes", "demo_mask_rcnn", "bbox_mAP"),
    Task("Semantic segmentation: UPerNet with a small DeiT, drawn scenes", "demo_upernet", "mIoU"),
    Task("Semantic segmentation: UPerNet with a small Swin, drawn scenes", "demo_upernet_swin", "mIoU"),
    Task("Classification: a small DeiT, drawn objects", "demo_classifier", "top1"),
)
# Heading, arm (None: the record's main one), weight and activation bits.
COLUMNS: tuple[tuple[str, str | None, tuple[int, int]], ...] = (
    ("FP32", "fp32", (32, 32)),
    ("W8A8", None, (8, 8)),
    ("W4A8", None, (4, 8)),
    ("W4A4", None, (4, 4)),
    ("W4A8, real images: calibration", "real-calib", (4, 8)),
    ("W4A8, real images: the same steps", "real", (4, 8)),
)


def headline_table(folder: Path) -> str:
    """The table as Markdown; a dash where a record has no such rows.

    Args:
        folder: The folder of the records.

    Raises:
        PSAQError: A record is missing or cannot be read.
    """
    rows = []
    for task in TASKS:
        results = read_results(folder / f"{task.record}.json")
        found = ((key, metric) for key, metric in headline(results).items() if key.rpartition("/")[2] == task.figure)
        key, metric = next(found)
        cells = []
        for _, arm, bits in COLUMNS:
            figures = values(results, arm or main_arm(results), bits, key)
            # The digits of one figure: no cell shows an error that would give more digits a meaning.
            cells.append(metric.show(statistics.fmean(figures)) if figures else "-")
        rows.append([task.title, metric.title, *cells])
    return markdown(["task, model, data", "figure", *(head for head, _, _ in COLUMNS)], rows, left=2)
