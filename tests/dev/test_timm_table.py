"""The record of timm's families: which model stands for a family, its table, and processes that fail."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("timm")

from dev import timm_table

MEASURED = {
    "family": "one",
    "models": 3,
    "model": "one_tiny",
    "arguments": {"depth": 2},
    "attention": ["Attention"],
    "products": 4,
    "layers": 9,
    "sqnr_db": 31.25,
    "error": "",
}
LAYERS = {**MEASURED, "family": "two", "models": 2, "arguments": {}, "attention": [], "products": 0}
FAILED = {"family": "three", "models": 1, "error": "not done after 300 s"}


def test_families_are_timms_modules():
    found = timm_table.families()
    assert "deit_tiny_patch16_224" in found["deit"] and len(found) > 50


def test_small_names_come_first():
    names = ["test_vit", "vit_huge", "vit_tiny", "vit_nano"]
    assert sorted(names, key=timm_table.promise) == ["vit_nano", "vit_tiny", "vit_huge", "test_vit"]


def test_the_table_tells_attention_layers_and_errors_apart():
    text = timm_table.families_table([MEASURED, LAYERS, FAILED])
    assert "quantized in 1 families with 3 models" in text and "\n\n1 families with 2 models have no" in text
    assert "| one | 3 | `one_tiny`, shrunk | Attention | 4 | 9 | 31.2 |" in text
    assert "| two | 2 | `one_tiny` | - | 0 | 9 | 31.2 |" in text
    assert "| three | not done after 300 s |" in text


def test_a_family_is_measured():
    row = timm_table.measure("deit", ["deit_tiny_patch16_224"])
    assert row["error"] == "" and row["attention"] == ["Attention"] and row["products"] == 4 and row["tapped"] == 2
    assert row["sqnr_db"] > 20


def test_an_error_is_one_line():
    row = timm_table.measure("nothing", ["no_such_model"])
    assert row["error"] and "\n" not in row["error"]


def test_a_process_that_dies_is_a_row(monkeypatch):
    monkeypatch.setattr(timm_table, "measure", lambda *_: os._exit(3))
    assert timm_table.measured_apart("one", ["a"])["error"] == "the process ended with code 3"


def test_only_families_that_the_record_lacks_are_measured(monkeypatch, tmp_path, capsys):
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"families": [MEASURED]}))
    monkeypatch.setattr(timm_table, "families", lambda: {"one": ["a"], "two": ["b", "c"]})
    monkeypatch.setattr(timm_table, "measured_apart", lambda family, names: {**LAYERS, "family": family})
    monkeypatch.setattr("sys.argv", ["timm_table", "--record", str(record)])
    monkeypatch.setattr(os, "nice", lambda _: 0)
    assert timm_table.main() == 0
    assert [row["family"] for row in json.loads(record.read_text())["families"]] == ["one", "two"]
    assert capsys.readouterr().out.startswith("two ")
