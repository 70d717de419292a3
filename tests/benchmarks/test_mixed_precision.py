"""Sizes and figures of mixed precision beside uniform bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import mixed_precision
from psaq_mm.analysis.sensitivity import Sensitivity
from psaq_mm.cli import run_tool
from psaq_mm.engine.analysis.table import SensitivityTable


@pytest.fixture
def analysis(tmp_path) -> Path:
    rows = [Sensitivity("a", "weight", 4, 100, 0.1, 0.1), Sensitivity("b", "weight", 4, 300, 0.1, 0.1)]
    rows.append(Sensitivity("a", "input", 4, 0, 0.1, 0.1))
    path = tmp_path / "sensitivity.json"
    SensitivityTable("c.py", "", "generated", 16, (64, 64), 0, (4, 8), rows=rows).save(path)
    return path


def run_of(folder: Path, bits: dict[str, int | None], top1: float, seed: int = 0) -> Path:
    folder.mkdir()
    rows = [{"name": f"{name}.weight", "kind": "weight", "bits": one} for name, one in bits.items()]
    rows.append({"name": "a.input", "kind": "activation", "bits": 8})
    (folder / "coverage.json").write_text(json.dumps({"rows": rows}))
    head = {"seed": seed, "closeness": {}}
    models = [
        {**head, "weight_bits": 32, "activation_bits": 32, "metrics": {"accuracy/top1": 80.0, "other": 1.0}},
        {**head, "weight_bits": 4, "activation_bits": 8, "metrics": {"accuracy/top1": top1, "other": 1.0}},
    ]
    (folder / "results.json").write_text(json.dumps({"rows": models}))
    return folder


def call(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["x", *map(str, arguments)])
    return run_tool(mixed_precision.main)


def test_a_row_for_each_run(analysis, tmp_path, monkeypatch, capsys):
    uniform = run_of(tmp_path / "uniform", {"a": 4, "b": 4, "other": 8}, 75.0)
    mixed = run_of(tmp_path / "mixed", {"a": 8, "b": 3, "other": 8}, 77.0)
    out = tmp_path / "out.json"
    for _ in range(2):  # rows of the same model, seed and label are replaced
        assert call(monkeypatch, "net", analysis, f"4 bits={uniform}", f"mixed={mixed}", "-o", out) == 0
    rows = json.loads(out.read_text())["rows"]
    # (100 * 8 + 300 * 3) / (400 * 32) = 0.1328125
    assert [(row["part"], row["share"], row["metrics"]) for row in rows] == [
        ("4 bits", 0.125, {"accuracy/top1": 75.0}),
        ("mixed", 0.1328, {"accuracy/top1": 77.0}),
    ]
    assert "| net | W4A8 | 0 | mixed | 0.1328 | top-1 77.00 (-3.00) |" in capsys.readouterr().out


def test_weights_in_floating_point_have_32_bits(analysis, tmp_path):
    folder = run_of(tmp_path / "run", {"a": None, "b": 4}, 75.0)
    row = mixed_precision.row_of("net", "mixed", folder, SensitivityTable.load(analysis))
    assert row["share"] == round((100 * 32 + 300 * 4) / (400 * 32), 4)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        pytest.param("no-folder", "run 'no-folder' has no folder: write LABEL=DIR", id="no-label"),
        pytest.param("x=nowhere", "nowhere has no finished run", id="no-run"),
        pytest.param("x=other", "the run has other layers than the analysis", id="another-model"),
    ],
)
def test_errors_are_one_line(analysis, tmp_path, monkeypatch, capsys, run, message):
    run_of(tmp_path / "other", {"c": 4}, 75.0)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "net", analysis, run, "-o", tmp_path / "out.json") in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
