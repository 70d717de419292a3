"""The record of a run."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from psaq_mm.engine.results import SCHEMA, STAGES, Results, Row, timed

HEAD = {"schema", "config", "dataset", "images", "versions", "coverage", "rows"}
FIELDS = {
    "arm",
    "weight_bits",
    "activation_bits",
    "seed",
    "metrics",
    "closeness",
    "samples_sha256",
    "seconds",
    "peak_memory_mib",
}


def record() -> Results:
    results = Results("configs/a.py", "DemoScenes", 6, {"quantized": 3, "fp": 2})
    results.rows.append(Row("psaq", 4, 8, 0, metrics={"coco/bbox_mAP": 0.1234567, "coco/bbox_mAP_l": math.nan}))
    return results


def test_the_schema(tmp_path):
    record().save(tmp_path / "results.json")
    data = json.loads((tmp_path / "results.json").read_text())
    assert set(data) == HEAD and data["schema"] == SCHEMA == 1
    assert set(data["rows"][0]) == FIELDS
    assert set(data["rows"][0]["seconds"]) == set(STAGES)
    assert data["versions"]["torch"] == torch.__version__.partition("+")[0]
    # A figure that is no number has no JSON.
    assert data["rows"][0]["metrics"] == {"coco/bbox_mAP": 0.123457}


def test_what_is_written_is_read(tmp_path):
    results = record()
    results.rows[0].metrics = {"coco/bbox_mAP": 0.123}
    results.save(tmp_path / "a.json")
    assert Results.from_dict(json.loads((tmp_path / "a.json").read_text())) == results


def test_rows_do_not_share_their_seconds():
    a, b = Row("fp32", 32, 32, 0), Row("psaq", 8, 8, 0)
    a.seconds["generate"] = 1.0
    assert b.seconds["generate"] == 0.0


def test_time_adds_up_even_if_the_block_fails():
    seconds = {"evaluate": 1.0}
    with pytest.raises(KeyError), timed(seconds, "evaluate"):
        time.sleep(0.02)
        raise KeyError
    # sleep may last longer, never shorter
    assert 1.02 <= seconds["evaluate"] < 3
