"""The record of all configs, and its tables."""

from __future__ import annotations

import json

import pytest

from dev.pages import fill
from dev.zoo.__main__ import is_due
from dev.zoo.configs import ZooConfig
from dev.zoo.groups import grouped
from dev.zoo.record import ZooRecord, enter, read_zoo, update
from dev.zoo.stages import STAGES
from dev.zoo.table import goals, summary, zoo_table
from psaq_mm.errors import PSAQError


def model(kind, depth):
    return {"type": "ImageClassifier", "backbone": {"type": kind, "depth": depth}, "head": {"type": "LinearClsHead"}}


CONFIGS = [
    ZooConfig("mmpretrain", "vit/small", "mmpretrain", model("VisionTransformer", 6)),
    ZooConfig("mmpretrain", "vit/again", "mmpretrain", model("VisionTransformer", 6)),
    ZooConfig("mmpretrain", "vit/large", "mmpretrain", model("VisionTransformer", 24)),
    ZooConfig("mmpretrain", "resnet/r50", "mmpretrain", model("ResNet", 50)),
    ZooConfig("mmpretrain", "resnet/schedule", "mmpretrain"),
    ZooConfig("mmpretrain", "resnet/broken", "mmpretrain", error="KeyError: 'x'"),
]
DONE = {"stage": "infer", "passed": "infer", "products": [12, 12], "tensors": [9, 20], "seconds": 3.0}
FAILED = {"stage": "quantize", "passed": "infer_float", "error": "UsageError: not | supported", "seconds": 1.0}
FLOAT = {"stage": "infer_float", "passed": "infer_float", "seconds": 1.0}
CRASHED = {"stage": "build", "error": "ImportError: no transformers", "seconds": 1.0}


@pytest.fixture
def record():
    made = ZooRecord()
    update(made, CONFIGS, grouped(CONFIGS))
    for row in made.rows:
        row.update({"vit/small": DONE, "resnet/r50": FAILED}.get(row["config"], {}))
    return made


def test_a_class_is_a_row_that_counts_configs(record):
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in zoo_table(record).splitlines()[2:]]
    assert lines == [
        ["`mmpretrain.VisionTransformer`", "3", "1 of 2", "2 of 2", "2 of 2", "yes", ""],
        ["`mmpretrain.ResNet`", "1", "1 of 1", "1 of 1", "0 of 1", "-", "1: UsageError: not \\| supported"],
    ]


def test_the_goals_count_configs_and_groups(record):
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in goals(record).splitlines()[2:]]
    assert lines[0] == ["mmpretrain", "other", "1", "1", "1 (1)", "1 (1)", "1 (1)", "0 (0)", "0 (0)"]
    assert lines[1] == ["mmpretrain", "transformer", "3", "2", "2 (1)", "2 (1)", "2 (1)", "2 (1)", "2 (1)"]


def test_the_summary_names_failures_and_what_is_no_model(record):
    text = summary(record)
    assert "1 describe no model; cannot be read: resnet/broken" in text
    assert "1 (1) quantize: UsageError: not | supported  e.g. mmpretrain resnet/r50" in text


def test_a_record_is_written_read_and_updated(record, tmp_path):
    path = tmp_path / "zoo.json"
    record.save(path)
    again = read_zoo(path)
    assert again == record
    update(again, CONFIGS, grouped(CONFIGS))
    assert again == record
    row = next(row for row in again.rows if row["config"] == "resnet/r50")
    enter(row, DONE)
    assert "error" not in row and row["covers"] == ["resnet/r50"] and row["passed"] == "infer"


def test_configs_of_another_library_stay(record):
    other = [ZooConfig("mmseg", "x", "mmseg", {"type": "EncoderDecoder", "backbone": {"type": "UNet"}})]
    update(record, other, grouped(other))
    assert {row["library"] for row in record.rows} == {"mmpretrain", "mmseg"} == set(record.others)


def test_another_file_is_no_record(tmp_path):
    assert read_zoo(tmp_path / "none.json") == ZooRecord()
    (tmp_path / "other.json").write_text(json.dumps({"tool": "benchmark", "rows": []}))
    with pytest.raises(PSAQError, match="is no record"):
        read_zoo(tmp_path / "other.json")


DUE = {
    "not run": ({}, (True, True, True)),
    "done": (DONE, (False, False, False)),
    "failed": (FAILED, (False, True, False)),
    "float only": (FLOAT, (True, True, False)),
    "crashed": (CRASHED, (False, True, False)),
}


@pytest.mark.parametrize(("row", "due"), DUE.values(), ids=DUE)
def test_which_rows_are_due(row, due):
    """In a plain run, with --failed, and with --float-only."""
    assert (is_due(row, False, False), is_due(row, True, False), is_due(row, False, True)) == due


def test_a_page_shows_the_table(record, tmp_path):
    record.save(tmp_path / "zoo.json")
    filled = fill("<!-- zoo -->\nold\n<!-- /zoo -->\n", tmp_path)
    assert zoo_table(record) in filled and "old" not in filled


def test_the_record_knows_the_stages_in_their_order():
    from dev.zoo.record import passed

    assert [passed({"passed": stage}, "quantize") for stage in STAGES] == [False] * 2 + [True] * 5
