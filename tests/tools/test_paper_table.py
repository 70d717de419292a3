"""The paper's table from the command line, on stand-ins of the three data sets in their real layouts."""

from __future__ import annotations

import argparse
import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction

from psaq_mm import cli
from psaq_mm.engine.paper import runs
from tests.conftest import ROOT
from tests.paper_data import IMAGES, SHORT, TINY, write_ade20k, write_checkpoint, write_coco, write_imagenet

WRITERS = {"coco": write_coco, "ade20k": write_ade20k, "imagenet": write_imagenet}
# Half of the pixels or four of six images; random weights detect nothing.
CASES = {
    "deit_tiny_timm": ("imagenet", {"top-1": 100 * 4 / 6}),
    "upernet_swin_t": ("ade20k", {"mIoU": 100 / 3}),
    "mask_rcnn_swin_t": ("coco", {"box AP": 0.0, "mask AP": 0.0}),
}


def parsed(tokens: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *tokens]).cfg_options


def stand_in(name: str, folder: Path) -> list[str]:
    """Write what a model's rows need, and give the arguments that name it."""
    option, _ = CASES[name]
    data = WRITERS[option](folder / option)
    cfg = Config.fromfile(ROOT / "configs" / f"{name}_w8a8.py")
    official = Path(cfg.load_from).name
    cfg.merge_from_dict(parsed(TINY[name]))
    write_checkpoint(cfg, name, folder / "checkpoints" / official)
    return [f"--{option}", str(data), "--checkpoints", str(folder / "checkpoints"), "--work-dir", str(folder / "work")]


def table_of(folder: Path) -> list[dict]:
    record = json.loads((folder / "work" / "paper_table.json").read_text())
    assert record["tool"] == "paper_table"
    return record["rows"]


def check_table(name: str, folder: Path) -> None:
    rows = table_of(folder)
    expected = CASES[name][1]
    assert {(row["metric"], row["bits"]) for row in rows} == {(m, b) for m in expected for b in ("W8A8", "W4A8")}
    for row in rows:
        # the evaluators round to two decimals of a percent
        assert row["fp"] == pytest.approx(expected[row["metric"]], abs=0.01), row
        assert row["ours"] == pytest.approx(expected[row["metric"]], abs=0.01), row
        assert row["images"] == IMAGES and row["seeds"] == [0] and row["seconds"] > 0
    with open(folder / "work" / "paper_table.csv") as file:
        assert [line["bits"] for line in csv.DictReader(file)] == [row["bits"] for row in rows]


@pytest.fixture
def in_this_process(run_here, monkeypatch):
    """Rows run in this process, which saves the imports of those that users get."""

    def here(command: list[str]) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[1:])
            return cli.run_tool(runpy.run_path(command[1])["main"])

    monkeypatch.setattr(runs, "launch", here)
    return lambda *arguments: run_here("paper_table.py", *arguments)


def test_a_classifiers_rows_from_check_to_table(in_this_process, tmp_path):
    name = "deit_tiny_timm"
    arguments = [*stand_in(name, tmp_path), "--rows", name, "--gpus", "0", "--cfg-options", *SHORT, *TINY[name]]
    checked = in_this_process("--check", *arguments)
    assert checked.code == 0, checked.err
    assert "2 rows, about" in checked.out and "an estimate from" in checked.out and "GPU is many times" in checked.out
    assert not (tmp_path / "work" / "paper_table.json").exists()
    done = in_this_process(*arguments)
    assert done.code == 0, done.err
    assert "timing" not in done.out and (tmp_path / "work" / "paper_table.md").read_text() in done.out
    check_table(name, tmp_path)
    assert not list((tmp_path / "work").rglob("pilot*"))
    again = in_this_process(*arguments)
    assert again.code == 0 and "finished" in again.out and "[row" not in again.out


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_the_three_tasks_in_processes_of_their_own(name, tmp_path):
    arguments = [*stand_in(name, tmp_path), "--rows", name, "--gpus", "0", "--cfg-options", *SHORT, *TINY[name]]
    command = [sys.executable, str(ROOT / "tools" / "paper_table.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    check_table(name, tmp_path)


def test_what_is_missing_is_listed_before_one_line_of_error(run_here, tmp_path):
    done = run_here(
        "paper_table.py", "--imagenet", tmp_path, "--checkpoints", tmp_path, "--work-dir", tmp_path / "work"
    )
    lines = done.out.splitlines()
    assert sum(line.startswith("skipped: ") for line in lines) == 8
    missing = [line for line in lines if line.startswith("missing: ")]
    assert len(missing) == 6 and sum("curl -L" in line for line in missing) == 5
    assert done.code == 1 and done.err == (
        "error: what is missing or broken is listed above (6): get it, or choose rows with --rows\n"
    )
    assert not (tmp_path / "work").exists()


def test_weights_of_another_model_are_found_before_the_rows(in_this_process, tmp_path):
    name = "deit_tiny_timm"
    arguments = [*stand_in(name, tmp_path), "--rows", name, "--gpus", "0", "--cfg-options", *SHORT, *TINY[name]]
    done = in_this_process(*arguments, "model.depth=3")
    assert done.code == 1 and "DeiT-T cannot run, see above" in done.err
    assert "blocks.2" in done.out and not (tmp_path / "work" / name / "ablation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "no row can run: give the folder of a data set", id="nothing"),
        pytest.param(["--rows", "deit_tini"], "no row is called deit_tini: choose from", id="row"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, run_here, tmp_path):
    done = run_here("paper_table.py", *arguments, "--work-dir", tmp_path)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1
