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


def test_whole_models_show_parts_and_what_lies_between_them():
    row = {"model": "a", "size": "64x64", "engine": "openvino", "precision": "int8", "sqnr_db": None}
    seconds = {"all": 0.1, "images": 0.05, "bbox_head": 0.01, "mask_head": 0.02, "glue": 0.02}
    rows = [
        {**row, "stage": stage, "seconds_median": one, "seconds_quartiles": [one, one]}
        for stage, one in seconds.items()
    ]
    rows[1]["sqnr_db"], rows[2]["sqnr_db"] = 40.0, 31.04
    started = {"seconds_load": 1.0, "seconds_first": 0.5, "file_mib": 4.0, "memory_mib": None}
    record = {
        "tool": "benchmark_models",
        "cpu": "a CPU",
        "threads": 2,
        "rows": rows,
        "ratios": {"a 64x64: torch fp32 / int8": 3.0},
        "startup": {"a 64x64: openvino int8": started},
        "profile": {"a 64x64: openvino int8, images": {"products": 0.002}},
    }
    text = record_markdown(record)
    assert "| a | 64x64 | openvino | int8 | 100.0 (100.0-100.0) | 50.0 | 30.0 | 20.0 | 31.0 |" in text
    assert "| a 64x64: openvino int8 | 1.00 | 0.50 | 4.0 |  |" in text
    assert "| a 64x64: openvino int8, images | 2.00 |" in text


def test_nncf_stands_beside_ours():
    row = {"model": "a", "bits": "w8a8", "size": "64x64", "precision": "int8", "images": 0}
    rows = [
        {**row, "engine": "torch", "precision": "fp32", "metrics": {"coco/bbox_mAP": 0.6}},
        {**row, "engine": "psaq_mm", "metrics": {"coco/bbox_mAP": 0.599}},
        {**row, "engine": "nncf", "images": 32, "metrics": {"coco/bbox_mAP": 0.59}},
    ]
    text = record_markdown({"tool": "nncf_accuracy", "rows": rows})
    assert "| a | 64x64 |  | fp32 |  | box AP 0.600 |" in text
    assert "| a | 64x64 | psaq_mm | w8a8 | 0 | box AP 0.599 (-0.001) |" in text
    assert "| a | 64x64 | nncf | w8a8 | 32 | box AP 0.590 (-0.010) |" in text
