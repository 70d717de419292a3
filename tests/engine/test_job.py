"""The whole pipeline on the shrunken demo: what it leaves behind, and that the host opens it unmodified."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmengine.fileio import load
from PIL import Image
from rich.console import Console

from psaq_mm.engine.job import Job
from psaq_mm.engine.results import Results, main_metrics
from psaq_mm.quantization import State, quantizers
from tests.conftest import ROOT, SIZE

# mmengine adds the recipe as it was read.
FILES = {
    "coverage.json",
    "dfq_state.pth",
    "mask_rcnn_swin_nano_w8a8.py",
    "quantized.pth",
    "quantized.py",
    "report.html",
    "report.json",
    "results.json",
    "samples.png",
    "samples.pth",
}


@pytest.fixture(scope="module")
def folder(finished) -> Path:
    return Path(finished.runner.work_dir)


@pytest.fixture(scope="module")
def record(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_it_leaves_its_files_and_no_scratch(finished, folder):
    helpful = {"more_bits.py"} if finished.verdict.helps else set()
    assert {path.name for path in folder.iterdir() if path.is_file()} == FILES | helpful
    assert not [path for path in folder.rglob(".*")]


def test_the_record_has_both_models(record):
    assert record["schema"] == 1
    assert record["config"].endswith("mask_rcnn_swin_nano_w8a8.py")
    assert record["dataset"].startswith("psaq_mm.DemoScenes") and record["images"] == 6
    float_row, quantized_row = record["rows"]
    assert (float_row["arm"], float_row["weight_bits"], float_row["activation_bits"]) == ("fp32", 32, 32)
    assert (quantized_row["arm"], quantized_row["weight_bits"], quantized_row["activation_bits"]) == ("psaq", 8, 8)
    for row in record["rows"]:
        assert row["seed"] == 0 and row["peak_memory_mib"] > 100
        assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(row["metrics"])
        assert set(row["seconds"]) == {"generate", "calibrate", "distill", "evaluate"}
        assert row["seconds"]["evaluate"] > 0
    assert float_row["samples_sha256"] == "" and float_row["seconds"]["generate"] == 0
    assert all(quantized_row["seconds"][stage] > 0 for stage in ("generate", "calibrate", "distill"))
    # 5 blocks of 12 quantized tensors and 8 around them; 11 FP each and 17 around: see tests/models/test_quantized.py
    assert record["coverage"] == {"quantized": 5 * 12 + 8, "fp": 5 * 11 + 17}


def test_the_record_is_written_at_the_end_of_every_stage(recipe, monkeypatch):
    written = []
    save = Results.save
    monkeypatch.setattr(Results, "save", lambda self, path: (save(self, path), written.append(path.read_text())))
    Job(recipe(), Console(quiet=True)).run()
    rows = [json.loads(text)["rows"] for text in written]
    done = [{stage for stage, value in row[-1]["seconds"].items() if value} for row in rows]
    stages = ["evaluate", "generate", "calibrate", "distill", "evaluate"]
    assert [row[-1]["arm"] for row in rows] == ["fp32", *["psaq"] * 4]
    assert [stage in after for stage, after in zip(stages, done, strict=True)] == [True] * 5
    assert done[1] == {"generate"} and rows[1][-1]["metrics"] == {} and rows[4][-1]["metrics"]


def test_the_samples_are_those_of_the_record(folder, record):
    images = torch.load(folder / "samples.pth", weights_only=True)["state_dict"]["images"]
    # four at first and two of the cycle
    assert images.shape == (6, 3, SIZE, SIZE) and images.dtype == torch.float32
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == record["rows"][1]["samples_sha256"]
    grid = np.asarray(Image.open(folder / "samples.png"))
    # the two newest, two pixels apart
    assert grid.shape == (SIZE, 2 * SIZE + 2, 3)


def test_the_coverage_has_a_figure_or_a_reason_for_everything(folder, record):
    coverage = json.loads((folder / "coverage.json").read_text())
    assert {key: coverage[key] for key in ("quantized", "fp")} == record["coverage"]
    for row in coverage["rows"]:
        assert row["name"].startswith("backbone.")
        if row["bits"] is None:
            assert row["reason"], row["name"]
        else:
            assert row["bits"] == 8 and 5 < row["sqnr"] < 80, row["name"]


def test_the_log_has_a_line_a_cycle(folder):
    (log,) = folder.glob("*/*.log")
    (line,) = [line for line in log.read_text().splitlines() if "cycle 1/1" in line]
    for term in ("entropy", "prior", "competition"):
        assert f"generator/loss/{term}: " in line and f"generator/gradient/{term}: " in line
    assert "student/discrepancy: " in line and "student/discrepancy_grad: " in line


def test_the_closing_table_shows_both(finished):
    console = Console(width=160, file=io.StringIO())
    console.print(finished.closing_table())
    text = console.file.getvalue()
    assert "fp32" in text and "W8A8" in text and "6 images" in text
    assert main_metrics(finished.results.rows) == ["coco/bbox_mAP", "coco/segm_mAP"]


def test_the_student_is_frozen_and_the_runners_model(finished):
    runner = finished.runner
    assert runner.model is runner.student
    assert {quantizer.state for _, quantizer in quantizers(runner.student)} == {State.FROZEN}


def test_the_teacher_stays_as_it_came(finished, tiny_checkpoint):
    loaded = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    state = finished.runner.teacher.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_training_moves_quantized_layers_and_nothing_else(finished):
    teacher, student = finished.runner.teacher.state_dict(), finished.runner.student.state_dict()
    moved = {key for key, value in teacher.items() if not torch.equal(value, student[key])}
    linear = ("qkv", "proj", "ffn", "projection", "reduction")
    expected = {key for key in teacher if key.startswith("backbone.") and any(part in key for part in linear)}
    assert moved and moved <= expected


def predictions(model, scenes: Path) -> list:
    files = sorted((scenes / "val").glob("*.png"))
    return [inference_detector(model, cv2.imread(str(file))).pred_instances for file in files]


def test_mmdets_api_opens_the_artifact(finished, folder, scenes):
    model = init_detector(str(folder / "quantized.py"), str(folder / "quantized.pth"), device="cpu")
    assert type(model).__name__ == "MaskRCNN" and model.dataset_meta["classes"][0] == "disc"
    ours, theirs = finished.runner.student.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    finished.runner.student.cfg = model.cfg
    for ours, theirs in zip(predictions(finished.runner.student, scenes), predictions(model, scenes), strict=True):
        assert len(ours) > 0
        for key in ("bboxes", "scores", "labels", "masks"):
            assert torch.equal(ours[key], theirs[key]), key


def mmdet_test(config: Path, checkpoint: Path, out: Path) -> tuple[dict, list]:
    """mmdet's own test tool as a plain subprocess: its figures and its predictions."""
    tool = Path(mmdet.__file__).parent / ".mim" / "tools" / "test.py"
    command = [sys.executable, str(tool), str(config), str(checkpoint), "--work-dir", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command += ["--out", str(out / "found.pkl")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    (figures,) = out.glob("*/*.json")
    return json.loads(figures.read_text()), load(str(out / "found.pkl"))


def test_mmdets_test_tool_gives_the_same_figures_and_detections(finished, folder, record, tmp_path):
    figures, found = mmdet_test(folder / "quantized.py", folder / "quantized.pth", tmp_path)
    figures = {key: value for key, value in figures.items() if key.startswith("coco/")}
    assert figures == record["rows"][1]["metrics"]
    # the recall of random weights, of whatever class
    assert figures["coco/AR@100"] > 0
    runner = finished.runner
    for index, one in enumerate(runner.test_dataloader):
        with torch.no_grad():
            (ours,) = runner.student.test_step(one)
        theirs = found[index]["pred_instances"]
        # same machine, same threads, same artifact: equal to the bit
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(ours.pred_instances[key], theirs[key]), key
    assert index == 5


COMMITTED = ROOT / "configs" / "demo" / "mask_rcnn_swin_nano.pth"


@pytest.mark.skipif(not COMMITTED.exists(), reason="the demo's trained checkpoint is not in configs/demo")
def test_the_trained_demo_gives_the_same_figures_in_mmdets_test_tool(tmp_path, scenes):
    from psaq_mm.engine.job import Job
    from tests.conftest import named

    cfg = Config.fromfile(ROOT / "configs" / "demo" / "mask_rcnn_swin_nano_w8a8.py")
    data = tmp_path / "data"
    options = {
        "load_from": str(COMMITTED),
        "test_dataloader.dataset.data_root": f"{data}/",
        "test_dataloader.dataset.images": 10,
        "test_evaluator.ann_file": f"{data}/val.json",
        "dfq.generate.images": 4,
        "dfq.generate.steps": 2,
        "dfq.generate.generator.warmup": 1,
        "dfq.calibrate.images": 4,
        "dfq.distill.cycles": 0,
    }
    cfg.merge_from_dict(options)
    results = Job(named(cfg, tmp_path / "work"), Console(quiet=True)).run()
    figures, _ = mmdet_test(tmp_path / "work" / "quantized.py", tmp_path / "work" / "quantized.pth", tmp_path / "test")
    metrics = results.rows[1].metrics
    assert metrics["coco/bbox_mAP"] > 0.4
    assert {key: figures[key] for key in metrics} == metrics
