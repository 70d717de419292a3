"""Rows and ratios of a benchmark, and the record that holds them."""

from __future__ import annotations

import copy
import json

import pytest

from psaq_mm.engine.benchmark_report import benchmark_markdown, merge_record, read_record
from psaq_mm.engine.timing import cpu
from psaq_mm.errors import PSAQError

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
    "cpu": cpu(),
    "threads": 2,
    "rows": [ROW],
    "ratios": {"a 64x64: x": 2.0},
    "profile": {"a 64x64: onnxruntime int8": {"products": 0.002, "rest": 0.0005}},
}


def test_rows_of_another_model_or_size_stay():
    record = merge_record({"rows": [], "ratios": {}}, RECORD)
    other = copy.deepcopy(RECORD)
    other["rows"][0]["size"], other["ratios"] = "32x32", {"a 32x32: x": 3.0}
    record = merge_record(record, other)
    assert [row["size"] for row in record["rows"]] == ["64x64", "32x32"]
    assert record["ratios"] == {"a 64x64: x": 2.0, "a 32x32: x": 3.0}
    again = copy.deepcopy(RECORD)
    again["rows"][0]["seconds_median"], again["ratios"] = 0.5, {"a 64x64: y": 1.0}
    record = merge_record(record, again)
    assert [(row["size"], row["seconds_median"]) for row in record["rows"]] == [("32x32", 0.0123), ("64x64", 0.5)]
    assert record["ratios"] == {"a 32x32: x": 3.0, "a 64x64: y": 1.0}


def test_markdown_shows_spread_and_what_is_unknown():
    text = benchmark_markdown(RECORD)
    assert "| a | 64x64 | torch | fp32 | 12.3 (12.0-13.0) |  | 8 |" in text
    assert "| a 64x64: x | 2.00 |" in text
    assert text.endswith(
        "| ms by kind of operator | products | rest |\n|---|---:|---:|\n| a 64x64: onnxruntime int8 | 2.00 | 0.50 |\n"
    )


def test_times_of_another_machine_are_not_mixed(tmp_path):
    path = tmp_path / "deploy.json"
    assert read_record(path, 2, "engine") == {"rows": [], "ratios": {}}
    path.write_text(json.dumps(RECORD))
    assert read_record(path, 2, "engine") == RECORD
    with pytest.raises(PSAQError, match="with 2 threads: give another --out"):
        read_record(path, 4, "engine")
    for text in ("[]", "no json", json.dumps({"rows": []}), json.dumps({**RECORD, "rows": [{"what": "a"}]})):
        path.write_text(text)
        with pytest.raises(PSAQError, match="is no record of this tool"):
            read_record(path, 2, "engine")
