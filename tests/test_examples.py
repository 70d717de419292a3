"""The notebooks of ``examples/`` run as they stand."""

from __future__ import annotations

import json
import tempfile

import pytest

from dev import notebook
from tests.conftest import ROOT

QUICKSTART = ROOT / "examples" / "quickstart.ipynb"
# A run of seconds.
OPTIONS = 'options={"dfq.generate.images": 32, "dfq.distill.cycles": 2}'
FEWER = {"dfq.generate.images": 8, "dfq.generate.steps": 4, "dfq.distill.cycles": 1, "dfq.distill.student_steps": 4}


def test_the_quickstart_runs(tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra [deploy] is not installed")
    monkeypatch.chdir(tmp_path)
    quickstart = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    (cell,) = (one for one in quickstart["cells"] if OPTIONS in "".join(one["source"]))
    cell["source"] = ["".join(cell["source"]).replace(OPTIONS, f"options={FEWER}")]
    found = notebook.run(quickstart)
    metrics = found["result"].metrics
    assert metrics["float"]["accuracy/top1"] == 95.0
    assert metrics["quantized"]["accuracy/top1"] > 93
    assert found["stages"] == ["generate: 4 steps", "calibrate: 6 steps", "distill: 4 steps"]
    assert (tmp_path / "quantized" / "quantized.py").is_file() and (tmp_path / "classifier.onnx").is_file()


def test_the_outputs_are_kept_and_name_no_machine():
    """Written by ``python -m dev.notebook``."""
    text = QUICKSTART.read_text(encoding="utf-8")
    kept = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in kept] == list(range(1, len(kept) + 1))
    assert any("image/png" in one.get("data", {}) for cell in kept for one in cell["outputs"])
    assert str(ROOT) not in text and tempfile.gettempdir() + "/" not in text


def test_outputs_are_what_a_cell_prints_and_its_last_value():
    cell = {"cell_type": "code", "source": ["import math\n", "print('one')\n", "math.pi"]}
    silent = {"cell_type": "code", "source": ["x = 1"]}
    found = notebook.run({"cells": [{"cell_type": "markdown", "source": []}, cell, silent]})
    assert found["x"] == 1
    printed, value = cell["outputs"]
    assert printed["text"] == ["one\n"] and value["data"] == {"text/plain": ["3.141592653589793"]}
    assert (cell["execution_count"], silent["execution_count"], silent["outputs"]) == (1, 2, [])
