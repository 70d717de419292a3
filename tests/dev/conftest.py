"""A small record of an ablation."""

from __future__ import annotations

import pytest


def row(arm, weight_bits, activation_bits, seed, box, mask):
    metrics = {"coco/bbox_mAP": box, "coco/bbox_mAP_50": 0.9, "coco/segm_mAP": mask}
    return {
        "arm": arm,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "seed": seed,
        "metrics": metrics,
        "samples_sha256": "",
        "seconds": {},
        "peak_memory_mib": 0,
    }


@pytest.fixture
def results():
    return {
        "schema": 1,
        "config": "configs/demo/x_w8a8.py",
        "dataset": "DemoScenes",
        "images": 200,
        "versions": {"torch": "2.14.1", "numpy": "2.2.6", "mmdet": "3.5.1"},
        "coverage": {"quantized": 152, "fp": 149},
        "rows": [
            row("fp32", 32, 32, 0, 0.75, 0.7),
            row("psaq", 8, 8, 0, 0.74, 0.69),
            row("psaq", 4, 8, 0, 0.70, 0.60),
            row("noise", 8, 8, 0, 0.73, 0.68),
            row("psaq", 4, 8, 1, 0.71, 0.62),
            row("psaq", 4, 8, 2, 0.72, 0.64),
        ],
    }
