"""Rank correlation of two analyses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from benchmarks.sensitivity_ranks import correlations, main
from psaq_mm import cli
from psaq_mm.analysis.sensitivity import Sensitivity
from psaq_mm.engine.analysis.table import SensitivityTable
from psaq_mm.visualization.record_tables import record_markdown


def table(values: list[float], source: str = "generated", logits: bool = True) -> SensitivityTable:
    rows = [
        Sensitivity(f"layer{index // 2}", ("weight", "input")[index % 2], 4, 10, value, value if logits else None)
        for index, value in enumerate(values)
    ]
    return SensitivityTable("c.py", "", source, 16, (64, 64), 0, (4, 4), rows=rows)


def test_equal_orders_have_1_and_reversed_ones_minus_1():
    first, second = table([1.0, 2, 3, 4, 5, 6]), table([10.0, 20, 30, 40, 50, 60], "real")
    rows = list(correlations("net", first, second))
    assert [(row["part"], row["tensors"], row["logits"]) for row in rows] == [
        ("all", 6, 1.0),
        ("weights", 3, 1.0),
        ("activations", 3, 1.0),
    ]
    assert rows[0]["sources"] == ["16 generated", "16 real"] and rows[0]["size"] == "64x64"
    assert next(correlations("net", first, table([6.0, 5, 4, 3, 2, 1])))["features"] == -1


def test_one_exchange_of_four_has_0_8():
    # 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 6 * 2 / 60
    assert next(correlations("net", table([1.0, 2, 3, 4]), table([2.0, 1, 3, 4])))["features"] == pytest.approx(0.8)


def test_without_logits_there_is_no_figure_for_them():
    row = next(correlations("net", table([1.0, 2, 3, 4], logits=False), table([1.0, 2, 3, 4], logits=False)))
    assert row["logits"] is None and row["features"] == 1


def test_scores_are_compared_with_the_features_of_the_other_images():
    first = table([1.0, 2, 3, 4])
    # mine has the reversed order of the others' features, logits one exchange of two
    first.rows = [
        replace(row, logits=logits, scores={"mine": -row.features}, seconds=0.5, scores_seconds=0.25)
        for row, logits in zip(first.rows, [2.0, 1, 3, 4], strict=True)
    ]
    row = next(correlations("net", first, table([10.0, 20, 30, 40], "real")))
    assert row["with_features"] == {"logits": pytest.approx(0.8), "mine": -1.0}
    assert (row["features"], row["logits"]) == (1.0, pytest.approx(0.8))
    assert row["seconds"] == {"passes": 2.0, "scores": 1.0}


def test_passes_are_of_the_tensors_in_a_row_and_those_of_scores_of_all():
    first = table([1.0, 2, 3, 4, 5, 6])
    first.rows = [replace(row, seconds=0.5, scores_seconds=0.25) for row in first.rows]
    rows = {row["part"]: row["seconds"] for row in correlations("net", first, first)}
    assert rows["weights"] == {"passes": 1.5, "scores": 1.5} and rows["all"] == {"passes": 3.0, "scores": 1.5}


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param([{"mine": 1.0}, {"mine": 2.0}, {"mine": 3.0}, {}], id="missing-for-one"),
        pytest.param([{"mine": 1.0}] * 4, id="the-same-for-all"),
    ],
)
def test_a_score_without_an_order_of_all_tensors_has_no_figure(scores):
    first = table([1.0, 2, 3, 4])
    first.rows = [replace(row, scores=one) for row, one in zip(first.rows, scores, strict=True)]
    row = next(correlations("net", first, table([1.0, 2, 3, 4])))
    assert row["with_features"] == {"logits": 1.0, "mine": None}
    assert row["seconds"] == {"passes": None, "scores": None}


def test_rows_of_earlier_records_have_a_dash_for_what_they_lack():
    first = table([1.0, 2, 3, 4])
    first.rows = [replace(row, scores={"mine": row.features}, seconds=0.5, scores_seconds=0.25) for row in first.rows]
    new = next(correlations("new", first, table([1.0, 2, 4, 3])))
    old = {key: value for key, value in new.items() if key not in ("with_features", "seconds")} | {"model": "old"}
    lines = record_markdown({"tool": "sensitivity_ranks", "rows": [old, new]}).splitlines()
    assert "| model | settings | tensors | bits | features | logits | mine | s of passes | s of other scores |" in lines
    assert "| old | W4A4 | all | 4 | 0.800 | - | - | - | - |" in lines
    assert "| new | W4A4 | all | 4 | 0.800 | 0.800 | 0.800 | 2.0 | 1.0 |" in lines
    assert record_markdown({"tool": "sensitivity_ranks", "rows": [old]}).count("| model |") == 1


def test_rows_of_a_model_are_replaced_in_the_record(tmp_path, monkeypatch, capsys):
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path, values in zip(paths, ([1.0, 2, 3, 4], [1.0, 2, 4, 3]), strict=True):
        table(values).save(path)
    out = tmp_path / "ranks.json"
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["ranks", "net", *map(str, paths), "-o", str(out)])
        assert cli.run_tool(main) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["part"] for row in rows] == ["all"] and "| net | W4A4 |" in capsys.readouterr().out


def test_analyses_of_other_models_are_refused(tmp_path, monkeypatch, capsys):
    first = table([1.0, 2, 3])
    first.save(tmp_path / "a.json")
    second = table([1.0, 2, 3])
    second.rows = [replace(row, layer=f"other{index}") for index, row in enumerate(second.rows)]
    second.save(tmp_path / "b.json")
    arguments = ["net", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-o", str(tmp_path / "o.json")]
    monkeypatch.setattr(sys, "argv", ["ranks", *arguments])
    assert cli.run_tool(main) == 2
    assert "no tensor and width in common" in capsys.readouterr().err and not (tmp_path / "o.json").exists()
