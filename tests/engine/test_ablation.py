"""The ablation: rows, files, and going on at the next missing row."""

from __future__ import annotations

import csv
import json

import pytest
from rich.console import Console

from psaq_mm.engine.ablation import Ablation, markdown
from psaq_mm.engine.results import Results, Row
from psaq_mm.errors import PSAQError, UsageError
from tests.conftest import named

ARMS = ["fp32", "noise-calib", "psaq-calib", "psaq"]


def ablation(recipe, folder, arms=ARMS, bits=("w4a8",), seeds=(0,), once=()) -> Ablation:
    return Ablation(recipe(), bits, arms, seeds, once, folder, Console(quiet=True))


@pytest.fixture
def unique_names(monkeypatch):
    """Rows name their runners by arm; in one test process the names of two ablations would meet."""
    original = Ablation.runner

    def runner(self, cfg, name):
        return original(self, named(cfg, self.folder), f"{name}_{cfg.experiment_name}")

    monkeypatch.setattr(Ablation, "runner", runner)


def test_rows_are_ordered_by_seed_and_once_arms_take_the_first(recipe, tmp_path):
    made = ablation(recipe, tmp_path, bits=("w8a8", "w4a8"), seeds=(0, 1), once=("noise-calib", "psaq-calib"))
    assert [key for key in made.keys if key[3] == 1] == [("psaq", 8, 8, 1), ("psaq", 4, 8, 1)]
    assert len([key for key in made.keys if key[3] == 0]) == 6


def test_a_stopped_table_goes_on_where_it_stopped(recipe, tmp_path, unique_names):
    first = ablation(recipe, tmp_path, arms=["fp32", "psaq-calib"])
    first.run()
    assert [row.arm for row in first.results.rows] == ["fp32", "psaq-calib"]
    before = (tmp_path / "samples_seed0.pth").stat().st_mtime_ns
    second = ablation(recipe, tmp_path)
    second.run()
    rows = {row.arm: row for row in second.results.rows}
    assert list(rows) == ["fp32", "psaq-calib", "noise-calib", "psaq"]
    assert (tmp_path / "samples_seed0.pth").stat().st_mtime_ns == before, "the first samples are shared"
    assert rows["psaq-calib"].samples_sha256 == first.results.rows[1].samples_sha256 != ""
    assert rows["psaq"].seconds["distill"] > 0 == rows["psaq-calib"].seconds.get("distill", 0) // 1
    data = json.loads((tmp_path / "ablation.json").read_text())
    assert data["coverage"]["quantized"] > 0 and len(data["rows"]) == 4
    with open(tmp_path / "ablation.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["arm"] for line in lines] == list(rows)
    assert (tmp_path / "ablation.md").read_text() == markdown(second.results)
    assert not list((tmp_path / "rows").glob("psaq*")), "a finished row's work dir is not kept"


def test_markdown_has_a_row_a_row():
    rows = [Row("fp32", 32, 32, 0, {"coco/bbox_mAP": 0.5}), Row("psaq", 4, 8, 2, {"coco/bbox_mAP": 0.4812})]
    lines = markdown(Results("c.py", "d", 3, rows=rows)).splitlines()
    assert lines[2:] == ["| fp32 | FP32 | 0 | 0.5000 | 0 |", "| psaq | W4A8 | 2 | 0.4812 | 0 |"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"arms": ["psaqq"]}, "'psaqq' is unknown", id="arm"),
        pytest.param({"once": ["everything"]}, "'everything' is unknown", id="once"),
        pytest.param({"bits": ["8"]}, "cannot be read", id="bits"),
        pytest.param({"seeds": []}, "no seed", id="no-seed"),
    ],
)
def test_wrong_arguments_are_usage_errors(recipe, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        ablation(recipe, tmp_path, **arguments)


def test_another_recipes_table_is_not_mixed_in(recipe, tmp_path):
    Results("another.py", "d", 1).save(tmp_path / "ablation.json")
    with pytest.raises(UsageError, match="belongs to another.py"):
        ablation(recipe, tmp_path)


def test_a_broken_table_is_not_overwritten(recipe, tmp_path):
    (tmp_path / "ablation.json").write_text("{")
    with pytest.raises(PSAQError, match="move it away"):
        ablation(recipe, tmp_path)
    assert (tmp_path / "ablation.json").read_text() == "{"
