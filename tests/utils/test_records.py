"""Records: rows are added, those of the same identity replaced, and nothing is mixed that cannot be compared."""

from __future__ import annotations

import json

import pytest

from psaq_mm.errors import PSAQError
from psaq_mm.utils.records import is_record, load_record, merge_record, read_record


def found(model: str, seconds: float, **ratios: float) -> dict:
    """What a benchmark finds of one model at 64x64."""
    labelled = {f"{model} 64x64: {name}": value for name, value in ratios.items()}
    return {"rows": [{"model": model, "size": "64x64", "seconds": seconds}], "ratios": labelled}


def test_rows_and_ratios_of_others_stay(tmp_path):
    record = read_record(tmp_path / "none.json", "benchmark", threads=2)
    assert record == {"tool": "benchmark", "threads": 2, "rows": []}
    for one in (found("a", 1.0, x=2.0), found("ab", 2.0, x=3.0), found("a", 0.5, y=1.0)):
        record = merge_record(record, one)
    assert [(row["model"], row["seconds"]) for row in record["rows"]] == [("ab", 2.0), ("a", 0.5)]
    assert record["ratios"] == {"ab 64x64: x": 3.0, "a 64x64: y": 1.0}
    assert record["tool"] == "benchmark" and record["threads"] == 2


def test_other_bits_are_other_rows():
    rows = [{"model": "a", "size": "64x64", "bits": bits} for bits in ("w8a8", "w4a8")]
    record = {"tool": "parity", "rows": []}
    for row in (*rows, rows[0]):
        record = merge_record(record, {"rows": [row]})
    assert record["rows"] == rows[::-1]


def test_what_cannot_be_compared_is_not_mixed(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"tool": "benchmark", "cpu": "a", "threads": 2, "rows": []}))
    assert read_record(path, "benchmark", cpu="a", threads=2)["rows"] == []
    with pytest.raises(PSAQError, match=r"another threads \(2, not 4\): give another --out"):
        read_record(path, "benchmark", cpu="a", threads=4)
    with pytest.raises(PSAQError, match="another cpu"):
        read_record(path, "benchmark", cpu="b", threads=2)
    with pytest.raises(PSAQError, match=r"is a record of 'benchmark', not of 'parity': give another --out"):
        read_record(path, "parity")


@pytest.mark.parametrize(
    "text",
    ["[]", "no json", "{}", '{"tool": "benchmark"}', '{"tool": 1, "rows": []}', '{"tool": "a", "rows": [1]}'],
    ids=["list", "no-json", "empty", "no-rows", "tool", "rows"],
)
def test_other_files_are_one_line(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(PSAQError, match="is no record of a benchmark or of tools/parity.py"):
        read_record(path, "benchmark")
    assert "\n" not in str(pytest.raises(PSAQError, load_record, path).value)


def test_a_missing_record_says_so(tmp_path):
    assert not is_record(tmp_path / "none.json")
    with pytest.raises(PSAQError, match="there is no .*none.json"):
        load_record(tmp_path / "none.json")
