"""The built-in models of every task: their checkpoints reach the recorded figures, and their recipes run by name."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console

from psaq_mm.cli import read_config
from psaq_mm.deployment import ENGINES
from psaq_mm.deployment.artifact import Artifact
from psaq_mm.engine.job import Job
from psaq_mm.engine.parity import check_parity
from tests.conftest import ROOT, named
from tests.cpu import SATURATED_SQNR, integer_sums_are_exact

DEMO = ROOT / "configs" / "demo"
LARGEST = 16 * 2**20
# model, headline figure in per cent, images of the test and how far off as few may be
MODELS = {
    "upernet_deit_nano": ("mIoU", 40, 5.0),
    "upernet_swin_nano": ("mIoU", 40, 5.0),
    "deit_nano": ("accuracy/top1", 200, 5.0),
}
TABLES = {"upernet_deit_nano": "demo_upernet", "upernet_swin_nano": "demo_upernet_swin", "deit_nano": "demo_classifier"}
SIZES = {"upernet_deit_nano": (128, 128), "upernet_swin_nano": (128, 128), "deit_nano": (64, 64)}
SHORT = {
    "dfq.generate.images": 8,
    "dfq.generate.batch_size": 8,
    "dfq.generate.steps": 4,
    "dfq.generate.generator.warmup": 1,
    "dfq.calibrate.images": 8,
    "dfq.distill.cycles": 1,
    "dfq.distill.generator_steps": 2,
    "dfq.distill.generator_images": 4,
    "dfq.distill.student_steps": 2,
    "dfq.distill.batch_size": 4,
}


def trained(model: str) -> dict[str, float]:
    """The last figures of a model's training."""
    return json.loads((DEMO / "training.json").read_text())[model]["stages"][-1]


@pytest.mark.parametrize("model", MODELS)
def test_a_short_run_from_any_folder_keeps_the_recorded_figures(model, tmp_path, monkeypatch):
    key, images, tolerance = MODELS[model]
    monkeypatch.chdir(tmp_path)
    options = {**SHORT, "test_dataloader.dataset.images": images, "dfq.quantization.scope": "model"}
    arguments = Namespace(config=f"{model}_w8a8", checkpoint=None, work_dir="work", cfg_options=options)
    cfg = named(read_config(arguments), tmp_path / "work")
    init_default_scope(cfg.default_scope)
    job = Job(cfg, Console(quiet=True))
    found = [row.metrics[key] for row in job.run().rows]
    assert len(found) == 2 and job.results.images == images
    assert found[0] == pytest.approx(trained(model)[key], abs=tolerance)
    # eight bits and hardly any steps: what calibration alone gives
    assert found[1] == pytest.approx(found[0], abs=3.0)
    pytest.importorskip("openvino", reason="the extra [deploy] is not installed")
    pytest.importorskip("onnxruntime", reason="the extra [deploy] is not installed")
    artifact = tmp_path / "work" / "quantized.py", tmp_path / "work" / "quantized.pth"
    opened = Artifact(Config.fromfile(artifact[0]), artifact[1])
    plain, simulated, *deployed = check_parity(model, opened, artifact[1], [SIZES[model]], ENGINES, part="model")
    assert (plain["engine"], simulated["engine"]) == ("float", "simulation") and len(deployed) == len(ENGINES)
    assert plain["metrics"][key] == pytest.approx(found[0], abs=1e-3)
    assert simulated["metrics"][key] == pytest.approx(found[1], abs=1e-3)
    for row in deployed:
        saturates = row["engine"] == "openvino" and not integer_sums_are_exact()
        assert row["sqnr_db"] >= (SATURATED_SQNR if saturates else 35), row
        # in points; one of the classifier's pictures is half a point
        allowed = 3.0 if saturates else 0.5 if key == "accuracy/top1" else 0.3
        assert row["metrics"][key] == pytest.approx(found[1], abs=allowed), row
    assert (tmp_path / "work" / "quantized.pth").is_file()


def checkpoints() -> list[Path]:
    return sorted(DEMO.glob("*.pth"))


@pytest.mark.parametrize("path", checkpoints(), ids=lambda path: path.stem)
def test_a_checkpoint_is_small_and_holds_what_is_needed(path):
    assert path.stat().st_size <= LARGEST
    loaded = torch.load(path, weights_only=True)
    assert set(loaded) == {"state_dict", "meta"} and set(loaded["meta"]) == {"dataset_meta"}
    model = Config.fromfile(DEMO / f"{path.stem}.py").model
    head = model.get("decode_head") or model.get("head") or model.roi_head.bbox_head
    assert len(loaded["meta"]["dataset_meta"]["classes"]) == head.num_classes


@pytest.mark.parametrize("model", MODELS)
def test_the_log_is_of_the_config(model):
    assert trained(model)["iterations"] == Config.fromfile(DEMO / f"{model}.py").max_iters


@pytest.mark.parametrize(("model", "table"), TABLES.items(), ids=TABLES)
def test_the_table_starts_from_what_training_reached(model, table):
    """The checkpoint that was measured is the one that was trained: nothing was exchanged in between."""
    measured = json.loads((ROOT / "results" / f"{table}.json").read_text())
    assert measured["config"] == f"configs/demo/{model}_w8a8.py"
    first = next(row["metrics"] for row in measured["rows"] if row["arm"] == "fp32")
    key = MODELS[model][0]
    assert first[key] == pytest.approx(trained(model)[key], abs=0.02)
