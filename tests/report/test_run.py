"""Reports of runs of the shrunken recipe: their contents, what happens when a part fails, and a user's pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from psaq_mm.engine.run_state import recipe_hash
from psaq_mm.report import Report, call_text, render, report_of
from psaq_mm.report.build import without_home
from tests.conftest import ROOT

FAST = {"dfq.distill.cycles": 0, "dfq.report": True}


def contents(folder: Path) -> Report:
    return Report.from_dict(json.loads((folder / "report.json").read_text()))


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("this model\nis exotic")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(10):
        Image.new("RGB", (80, 60), (25 * number, 100, 0)).save(folder / f"{number}.png")
    return folder


def test_the_report_of_a_whole_run(finished):
    found = contents(finished.runner.folder)
    record = json.loads(finished.path.read_text())
    assert list(found.rows) == record["rows"] and found.notes == {}
    assert found.title == "mask_rcnn_swin_nano_w8a8" and found.facts["bits"] == "W8A8"
    assert found.facts["generated images"] == "6" and found.facts["model"] == "MaskRCNN"
    assert len(found.coverage) == sum(record["coverage"].values())
    assert found.samples is not None and "6 images" in found.samples.description
    assert [one.name for one in found.comparisons] == [f"generated image {number}" for number in range(1, 5)]
    # names of the demo's classes, from the checkpoint or the data set
    assert {row[0] for one in found.comparisons for row in one.rows} <= {"disc", "ring", "square", "triangle", "star"}
    assert len(found.histograms) == 12
    by_name = {row["name"]: row for row in found.coverage}
    for one in found.histograms:
        assert by_name[one.name]["sqnr"] == pytest.approx(one.sqnr) and one.bits == 8
        assert one.total > 0 and one.clipped < one.total / 2
    assert {"psaq_mm", "python", "torch", "mmengine", "mmdet"} <= set(found.versions)
    assert "weight_bits" in found.recipe
    assert (finished.runner.folder / "report.html").stat().st_size < 8_000_000


def test_pictures_of_the_user_are_shown(finished, pictures):
    found = report_of(replace(finished.contents(), pictures=str(pictures), forward=fail))
    assert [one.name for one in found.comparisons] == [f"{number}.png" for number in range(8)]
    assert found.remarks["predictions"] == "On the first 8 of 10 pictures that were given."
    assert not any(one.generated for one in found.comparisons)


def test_a_missing_folder_of_pictures_ends_the_tool_before_any_work(run_dfq, tmp_path):
    outcome = run_dfq(FAST, "--pictures", str(tmp_path / "nowhere"))
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1 and "nowhere does not exist: give a folder with images" in outcome.err
    assert not (tmp_path / "work").exists()


def test_other_pictures_do_not_make_another_recipe():
    one, other, third = ({"pictures": "a"}, {"pictures": "b"}, {"pictures": "a", "generate": {"images": 3}})
    assert recipe_hash({}, one, 0) == recipe_hash({}, other, 0) == recipe_hash({}, {}, 0)
    assert recipe_hash({}, third, 0) != recipe_hash({}, one, 0)


@pytest.mark.parametrize(
    ("place", "section"),
    [
        ("psaq_mm.report.predictions.predicted", "predictions"),
        ("psaq_mm.report.build.collect", "histograms"),
        ("psaq_mm.report.build.samples_picture", "samples"),
    ],
    ids=["predictions", "histograms", "samples"],
)
def test_a_section_that_fails_is_left_out(finished, monkeypatch, place, section):
    if section != "predictions":  # drawing takes seconds
        monkeypatch.setattr("psaq_mm.report.build.comparisons_of", lambda *_: [])
    monkeypatch.setattr(place, fail)
    warnings: list[str] = []
    found = report_of(replace(finished.contents(), warn=warnings.append))
    assert warnings == [f"the report has no {section}: RuntimeError: this model is exotic"]
    assert found.notes == {section: "This section is left out (RuntimeError: this model is exotic)."}
    assert found.notes[section] in render(found)


def test_a_report_that_fails_loses_nothing(run_dfq, tmp_path, monkeypatch):
    monkeypatch.setattr("psaq_mm.engine.job.report_of", fail)
    outcome = run_dfq(FAST)
    assert outcome.code == 0
    assert "WARNING: no report was written (RuntimeError: this model is exotic)" in outcome.out + outcome.err
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert {"quantized.pth", "quantized.py", "coverage.json"} <= names and "report.html" not in names
    assert len(json.loads((tmp_path / "work" / "results.json").read_text())["rows"]) == 2
    assert "report.html" not in outcome.out


def test_a_run_that_is_stopped_before_its_report_gets_one_by_resuming(run_dfq, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("psaq_mm.engine.job.report_of", interrupted)
        assert run_dfq(FAST).code == 130
    work = tmp_path / "work"
    assert (work / "quantized.pth").exists() and not (work / "report.html").exists()
    assert all(row["metrics"] for row in json.loads((work / "results.json").read_text())["rows"])
    outcome = run_dfq(FAST, "--resume")
    assert outcome.code == 0, outcome.err
    assert contents(work).rows[1]["seconds"]["generate"] > 0


def test_no_library_is_imported_before_a_config_names_it():
    """Their imports take seconds and print warnings, and not all of them are always installed."""
    code = "import sys, psaq_mm.engine.job; print(sorted({'mmdet', 'mmseg', 'mmpretrain'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]


def test_paths_of_this_user_are_shortened(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)
    text = f"/home/someone/data/coco is not there; {tmp_path}/configs/a.py; /home/someone2/b"
    assert without_home(text) == "~/data/coco is not there; configs/a.py; /home/someone2/b"


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        ("a.py", {"bits": "w4a8", "seed": None}, "psaq_mm.quantize('a.py', bits='w4a8')  # in Python"),
        ({}, {"options": {"dfq.x": 1}}, "psaq_mm.quantize(dict, options={'dfq.x': 1})  # in Python"),
    ],
    ids=["path", "object"],
)
def test_a_call_from_python_is_told(model, settings, expected):
    assert call_text(model, settings) == expected
