"""The runs of the paper's table: their commands, going on, failures, and the files that are written after each."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from rich.console import Console

from psaq_mm.engine.paper import pace, runs
from psaq_mm.engine.paper.inputs import Inputs
from psaq_mm.engine.paper.pace import Pace, image_steps
from psaq_mm.engine.paper.plan import chosen_models
from psaq_mm.engine.paper.runs import PaperTable, duration
from psaq_mm.engine.paper.table import paper_markdown, table_rows
from psaq_mm.engine.results import Results, Row
from psaq_mm.errors import PSAQError, UsageError
from tests.conftest import ROOT

NAMES = ("deit_tiny_timm", "cascade_mask_rcnn_swin_s")
METRICS = {
    "deit_tiny_timm": {"accuracy/top1": 72.0, "accuracy/top5": 91.0, "float/agreement": 99.0},
    "cascade_mask_rcnn_swin_s": {"coco/bbox_mAP": 0.505, "coco/segm_mAP": 0.44, "coco/bbox_mAP_50": 0.7},
}
PACE = Pace("CPU", generate=1.0, calibrate=1.0, distill=1.0, evaluate_fp=1.0, evaluate=2.0)


class FakeRuns:
    """In the place of the processes: adds a row to ``ablation.json``, or fails for the given recipes."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.commands: list[list[str]] = []
        self.fails = fails

    def __call__(self, command: list[str]) -> int:
        self.commands.append(command)
        options = {key: command[command.index(key) + 1] for key in ("--work-dir", "--bits", "--seeds")}
        folder, bits, seed = Path(options["--work-dir"]), options["--bits"], int(options["--seeds"])
        if f"{folder.name}_{bits}" in self.fails:
            return 1
        path = folder / "ablation.json"
        results = Results.from_dict(json.loads(path.read_text())) if path.exists() else Results("config.py", "d", 6)
        metrics = METRICS[folder.name]
        if not results.rows:
            results.rows.append(Row("fp32", 32, 32, 0, metrics))
        moved = {key: value + seed * (1 if value > 1 else 0.01) for key, value in metrics.items()}
        results.rows.append(Row("psaq", int(bits[1]), 8, seed, moved))
        results.save(path)
        return 0


def make(folder: Path, launch, rows=NAMES, seeds=(0,), gpus=0, options: dict | None = None) -> PaperTable:
    models = chosen_models(rows)
    configs = {model.name: Config.fromfile(ROOT / "configs" / f"{model.name}_w8a8.py") for model in models}
    for cfg in configs.values():
        cfg.merge_from_dict(options or {})
    inputs = Inputs(configs=configs, images={"ImageNet-1k": 6, "COCO": 6})
    return PaperTable(models, inputs, seeds, gpus, folder, Console(quiet=True), launch)


def equally(table: PaperTable) -> dict[str, float]:
    return {model.name: 60.0 for model in table.models}


def test_each_row_is_one_command_and_the_table_has_all(tmp_path):
    launch = FakeRuns()
    table = make(tmp_path, launch)
    path = table.run(equally(table))
    assert [(command[-5], command[-3], command[-1]) for command in launch.commands] == [
        ("psaq", bits, "0") for _ in NAMES for bits in ("w8a8", "w4a8")
    ]
    assert launch.commands[0][:2] == [sys.executable, str(ROOT / "tools" / "ablate.py")]
    rows = {
        (row["model"], row["metric"], row["bits"]): row
        for row in json.loads((tmp_path / "paper_table.json").read_text())["rows"]
    }
    assert len(rows) == 2 + 4
    box = rows["cascade_mask_rcnn_swin_s", "box AP", "W8A8"]
    # 0.505 is 50.5 percent; the abstract has 50.9
    assert (box["fp"], box["fp_published"], box["ours"], box["paper"]) == (50.5, 51.9, 50.5, 50.9)
    assert box["difference"] == pytest.approx(-0.4) and box["source"] == "V2"
    assert rows["cascade_mask_rcnn_swin_s", "mask AP", "W4A8"]["paper"] is None
    with open(tmp_path / "paper_table.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) and lines[-1]["paper"] == "" == lines[-1]["difference"]
    text = path.read_text()
    assert (
        "| Cascade Mask R-CNN, Swin-S | COCO | box AP | 50.50 | 51.90 | 50.50 | 50.90 (V2) | -0.40 | 50.50 |  |  | 0 |"
        in text
    )
    assert "- V1: " in text and "- V2: " in text and "- COCO: 6 images; published figures are of 5000" in text


def test_a_finished_row_is_not_run_again(tmp_path):
    first = make(tmp_path, FakeRuns(), seeds=(0,))
    first.run(equally(first))
    launch = FakeRuns()
    table = make(tmp_path, launch, seeds=(0, 1))
    table.run(equally(table))
    assert [command[-1] for command in launch.commands] == ["1"] * 4
    row = table_rows(table.models, tmp_path)[0]
    assert (row["seeds"], row["ours_by_seed"], row["ours"]) == ([0, 1], [72.0, 73.0], 72.5)


def test_the_table_keeps_the_rows_of_earlier_calls(tmp_path):
    for name in NAMES:
        table = make(tmp_path, FakeRuns(), rows=[f"{name}_w8a8"])
        table.run(equally(table))
    rows = json.loads((tmp_path / "paper_table.json").read_text())["rows"]
    assert {row["model"] for row in rows if row["ours"] is not None} == set(NAMES)
    assert all((row["ours"] is None) == (row["bits"] == "W4A8") for row in rows)


def test_a_row_that_fails_does_not_stop_the_others_and_runs_again(tmp_path):
    launch = FakeRuns(fails=("deit_tiny_timm_w8a8",))
    table = make(tmp_path, launch)
    with pytest.raises(PSAQError, match=r"1 of 4 rows failed \(deit_tiny_timm_w8a8 seed 0\)"):
        table.run(equally(table))
    assert len(launch.commands) == 4
    again = FakeRuns()
    table = make(tmp_path, again)
    table.run(equally(table))
    assert [command[command.index("--bits") + 1] for command in again.commands] == ["w8a8"]


def test_the_table_is_written_after_each_row(tmp_path):
    seen = []

    class Watching(FakeRuns):
        def __call__(self, command):
            path = tmp_path / "paper_table.json"
            seen.append([row["bits"] for row in json.loads(path.read_text())["rows"] if row["ours"] is not None])
            return super().__call__(command)

    table = make(tmp_path, Watching(), rows=["deit_tiny_timm"])
    table.run(equally(table))
    assert seen == [[], ["W8A8"]]


def test_several_gpus_get_a_process_each(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    table = make(tmp_path, FakeRuns(), gpus=4)
    command = table.command(table.models[0], "w4a8", 0)
    assert command[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    assert command[-2:] == ["--launcher", "pytorch"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"gpus": 64}, "this machine has .* GPUs, not 64", id="gpus"),
        pytest.param({"seeds": ()}, "no seed", id="seeds"),
    ],
)
def test_wrong_arguments_are_usage_errors(change, message, tmp_path):
    make(tmp_path, FakeRuns())
    with pytest.raises(UsageError, match=message):
        make(tmp_path, FakeRuns(), **change)


def test_without_rows_nothing_runs(tmp_path):
    with pytest.raises(UsageError, match="no row can run: give the folder of a data set"):
        PaperTable(chosen_models([]), Inputs(), [0], 0, tmp_path, Console(quiet=True))


def test_a_broken_record_is_not_overwritten(tmp_path):
    table = make(tmp_path, FakeRuns())
    path = tmp_path / NAMES[0] / "ablation.json"
    path.write_text("{")
    with pytest.raises(PSAQError, match="move it away"):
        table.run(equally(table))
    assert path.read_text() == "{"


def test_the_estimate_counts_images_and_steps(tmp_path, monkeypatch):
    """A second for everything: 32 images in 40 steps, 32 of calibration, six cycles, and the test images."""
    monkeypatch.setattr(runs, "measured_pace", lambda cfg, bits, folder: PACE)
    launch = FakeRuns()
    table = make(tmp_path, launch, rows=["deit_tiny_timm"], seeds=(0, 1))
    row = 32 + 6 * (6 * 32 + 100 * 32) + 2 * 6
    assert table.estimate() == {"deit_tiny_timm": 2 * 32 * 40 + 4 * row + 6}
    launch(table.command(table.models[0], "w8a8", 0))
    (tmp_path / "deit_tiny_timm" / "samples_seed0.pth").touch()
    assert table.estimate() == {"deit_tiny_timm": 32 * 40 + 3 * row}


def test_every_model_that_does_not_fit_is_named(tmp_path, monkeypatch):
    def refuse(cfg, bits, folder):
        raise PSAQError("the checkpoint belongs to another model")

    monkeypatch.setattr(runs, "measured_pace", refuse)
    with pytest.raises(PSAQError, match="DeiT-T, Cascade Mask R-CNN, Swin-S cannot run"):
        make(tmp_path, FakeRuns()).estimate()


def test_a_pilot_is_not_repeated_on_the_same_device(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "pilot", lambda *_: PACE)
    monkeypatch.setattr(pace, "device_name", lambda: "CPU")
    assert pace.known_pace(tmp_path) is None
    assert pace.measured_pace(Config(), "w8a8", tmp_path) == PACE == pace.known_pace(tmp_path)
    monkeypatch.setattr(pace, "device_name", lambda: "another")
    assert pace.known_pace(tmp_path) is None


def test_settings_may_change_until_a_row_has_begun(tmp_path):
    make(tmp_path, FakeRuns(), rows=NAMES[:1])
    (tmp_path / NAMES[0] / "pace.json").touch()
    changed = {"load_from": "elsewhere.pth"}
    make(tmp_path, FakeRuns(), rows=NAMES[:1], options=changed)
    assert Config.fromfile(tmp_path / NAMES[0] / "config.py").load_from == "elsewhere.pth"
    assert not (tmp_path / NAMES[0] / "pace.json").exists()
    (tmp_path / NAMES[0] / "rows").mkdir()
    make(tmp_path, FakeRuns(), rows=NAMES[:1], options=changed)
    with pytest.raises(UsageError, match="other settings, data or checkpoints: give these again"):
        make(tmp_path, FakeRuns(), rows=NAMES[:1])


@pytest.mark.parametrize("name", NAMES)
def test_a_pilot_has_the_proportions_of_the_recipe(name, tmp_path):
    cfg = Config.fromfile(ROOT / "configs" / f"{name}_w8a8.py")
    short = pace.pilot_config(cfg, "w8a8", tmp_path).dfq.distill
    full = cfg.dfq.distill

    def share(distill) -> float:
        return distill.generator_steps * distill.generator_images * (distill.cycles or 6) / image_steps(distill)

    # whole steps: 2 : 34 for 192 : 3200, and 2 : 2 for 480 : 400
    assert share(short) == pytest.approx(share(full), abs=0.06) and image_steps(short) < image_steps(full) / 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (90, "1.5 min"), (9000, "2.5 h"), (200000, "2.3 days")],
    ids=["s", "min", "h", "days"],
)
def test_times_have_a_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text


def test_an_empty_table_is_a_head():
    assert paper_markdown([], []).startswith("| model | data | metric | FP | FP published | seeds |")


def test_sigterm_ends_the_row_too(tmp_path):
    """What is started prints its id and waits; the run is stopped, and both are gone."""
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = f"import sys; from psaq_mm.engine.paper.runs import launch; launch([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    number = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "the same command goes on in this row" in err
    until = time.monotonic() + 10
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
