"""Records as tables."""

from __future__ import annotations

from psaq_mm.visualization.record_tables import record_markdown

ROW = {
    "model": "a",
    "size": "64x64",
    "engine": "torch",
    "precision": "fp32",
    "seconds_median": 0.0123,
    "seconds_quartiles": [0.012, 0.013],
    "file_mib": None,
    "memory_mib": 7.5,
}
RECORD = {
    "tool": "benchmark",
    "cpu": "a CPU",
    "threads": 2,
    "rows": [ROW],
    "ratios": {"a 64x64: x": 2.0},
    "profile": {"a 64x64: onnxruntime int8": {"products": 0.002, "rest": 0.0005}},
}


def test_markdown_shows_spread_and_what_is_unknown():
    text = record_markdown(RECORD)
    assert "| a | 64x64 | torch | fp32 | 12.3 (12.0-13.0) |  | 8 |" in text
    assert "| a 64x64: x | 2.00 |" in text
    assert text.endswith(
        "| ms by kind of operator | products | rest |\n| --- | ---: | ---: |\n"
        "| a 64x64: onnxruntime int8 | 2.00 | 0.50 |"
    )


def test_parity_shows_what_engines_differ_by():
    row = {"model": "a", "bits": "w4a8", "size": "64x64", "engine": "simulation", "sqnr_db": None}
    rows = [
        {**row, "metrics": {"coco/bbox_mAP": 0.6}},
        {**row, "engine": "openvino", "sqnr_db": 45.04, "metrics": {"coco/bbox_mAP": 0.598}},
    ]
    text = record_markdown({"tool": "parity", "rows": rows})
    assert "| a | w4a8 | 64x64 | backbone | simulation |  | box AP 0.600 |" in text
    assert "| a | w4a8 | 64x64 | backbone | openvino | 45.0 | box AP 0.598 (-0.002) |" in text
