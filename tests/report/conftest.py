"""A report with everything in it, and names that would be markup if they were not escaped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psaq_mm.quantization import activation_spec, weight_spec
from psaq_mm.report import Comparison, Histogram, Report
from psaq_mm.report.pictures import encoded

NASTY = "<img src=x onerror=\"document.title='bad'\">"
CLOSING = "</script><script>document.title='bad'</script>"


def noise(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """What compresses worst."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def histogram(name: str, kind: str, unit: str = "value", counts: tuple[int, ...] = (0, 1, 40, 900, 30, 2)) -> Histogram:
    return Histogram(
        name=name,
        kind=kind,
        bits=8,
        sqnr=31.25,
        unit=unit,
        low=-1.0,
        high=2.0,
        scale=0.01,
        scales=1 if unit == "value" else 64,
        start=-1.75,
        stop=2.75,
        counts=counts,
        below=0,
        above=3,
        clipped=5,
        minimum=-1.2,
        maximum=3.1,
    )


def row(arm: str, bits: int, **metrics) -> dict:
    seconds = {"generate": 12.5, "calibrate": 1.25, "distill": 0.0, "evaluate": 7.0}
    return {
        "arm": arm,
        "weight_bits": bits,
        "activation_bits": bits,
        "seed": 0,
        "metrics": metrics,
        "samples_sha256": "",
        "seconds": seconds if bits < 32 else {**dict.fromkeys(seconds, 0.0), "evaluate": 6.0},
        "peak_memory_mib": 900 + bits,
    }


def coverage_rows(count: int = 30) -> tuple[dict, ...]:
    kinds = [("weight", 8, 41.0), ("activation", 8, 33.0), ("product", 8, 28.5), ("other", None, None)]
    rows = [
        {"name": f"backbone.blocks.{index}.{kind}", "kind": kind, "bits": bits, "sqnr": sqnr, "reason": ""}
        for index in range(count)
        for kind, bits, sqnr in kinds
    ]
    rows[3] |= {"name": NASTY, "reason": CLOSING}
    return tuple(rows)


def sensitivity_record(layers: int = 12, logits: bool = True) -> dict:
    rows = [
        {
            "layer": f"backbone.blocks.{index}.ffn{CLOSING if index == 3 else ''}",
            "tensor": tensor,
            "bits": bits,
            "parameters": 1234,
            "features": 10.0 ** -(bits / 2 + index % 3),
            "logits": 10.0 ** -(bits / 2 + index % 4) if logits else None,
        }
        for index in range(layers)
        for tensor in ("weight", "input")
        for bits in (8, 4)
    ]
    head = {"schema": 1, "config": "x", "bits": [8, 4], "source": "generated", "count": 16, "size": [64, 64], "seed": 0}
    return {**head, "rows": rows}


@pytest.fixture
def sensitivity() -> dict:
    return sensitivity_record()


def complete() -> Report:
    picture = encoded(noise(), "float", f"detections of {NASTY}")
    masks = Comparison(
        "street & square.jpg",
        (picture, picture, picture),
        ("class", "float", "quantized"),
        ((CLOSING, "60.0 %", "61.0 %"), ("road", "40.0 %", "39.0 %")),
        colours=("#0072b2", "#e69f00"),
    )
    scores = Comparison(
        "generated image 1",
        (picture,),
        ("class", "float", "quantized"),
        ((NASTY, "90.0 %", "88.0 %"), ("cat", "10.0 %", "12.0 %")),
        shares=((0.9, 0.88), (0.1, 0.12)),
        generated=True,
    )
    return Report(
        title=NASTY,
        facts={"config": f"configs/{NASTY}.py", "model": "MaskRCNN", "bits": "W8A8", "seed": "0"},
        command="python tools/dfq.py 'my recipe.py' --cfg-options a=<b>",
        versions={"psaq_mm": "0.2.0", "torch": "2.6.0"},
        rows=(
            row("fp32", 32, **{"coco/bbox_mAP": 0.602, "coco/bbox_mAP_50": 0.85, "float/kl": 0.0, "list": [1, 2]}),
            row("psaq", 8, **{"coco/bbox_mAP": 0.6, "coco/bbox_mAP_50": 0.84, "float/kl": 0.01, "list": [1, 3]}),
        ),
        verdict=("Expected loss: box AP 1.2 % (0.5 to 2.9).", f"dfq.quantization.overrides={'x' * 300} {NASTY}"),
        samples=encoded(noise(130, 1040), "16 images", "16 images"),
        comparisons=(scores, masks),
        coverage=coverage_rows(),
        histograms=(
            histogram("backbone.blocks.0.fc1.weight", "weight", "step"),
            histogram(f"{NASTY}.input", "activation"),
        ),
        notes={"predictions": f"This section is left out ({CLOSING})."},
        remarks={"predictions": "On generated images."},
        recipe="dfq = dict(quantization=dict(weight_bits=8))",
    )


@pytest.fixture
def report() -> Report:
    return complete()


SPECS = {
    "weight": weight_spec(4),
    "activation": activation_spec(8),
    "channels": activation_spec(8, granularity="per_channel"),
    "log2": activation_spec(4, grid="log2"),
}


def values(count: int = 4000) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(3))
