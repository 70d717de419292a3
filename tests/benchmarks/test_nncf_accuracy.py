"""``benchmarks/nncf_accuracy.py`` on a small detector: the shape of its record, and one-line errors."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import SIZE

for package in ("onnx", "onnxscript", "openvino"):
    pytest.importorskip(package, reason="the extra [deploy] is not installed")
if find_spec("nncf") is None:
    pytest.skip("nncf is not installed (requirements/benchmark.txt)", allow_module_level=True)


@pytest.fixture
def run_comparison(run_here, tiny_recipe, scenes, tmp_path):
    """Runs ``benchmarks/nncf_accuracy.py`` on a small recipe in this process."""
    cfg = tiny_recipe.copy()
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.real_images = {
        **cfg.real_images,
        "images": 6,
        "size": SIZE,
        "data_root": f"{scenes}/real/",
        "pipeline": pipeline,
    }
    cfg.dump(tmp_path / "tiny.py")

    def run(artifact: Path):
        out = tmp_path / "nncf.json"
        arguments = ["--size", SIZE, SIZE, "--samples", 4, "--name", "tiny", "-o", out]
        return run_here("benchmarks/nncf_accuracy.py", tmp_path / "tiny.py", artifact, *arguments), out

    return run


@pytest.mark.full
def test_all_three_are_evaluated(run_comparison, finished):
    outcome, out = run_comparison(Path(finished.runner.work_dir) / "quantized.pth")
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(out.read_text())["rows"]
    assert [(row["engine"], row["precision"], row["images"]) for row in rows] == [
        ("torch", "fp32", 0),
        ("psaq_mm", "int8", 0),
        ("nncf", "int8", 4),
    ]
    for row in rows:
        assert row["bits"] == "w8a8" and "coco/bbox_mAP" in row["metrics"]
    float_model = finished.results.rows[0].metrics
    assert rows[0]["metrics"]["coco/bbox_mAP"] == pytest.approx(float_model["coco/bbox_mAP"], abs=1e-4)


def test_a_checkpoint_without_its_config_is_one_line(run_comparison, tiny_checkpoint):
    outcome, out = run_comparison(tiny_checkpoint)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and not out.exists()
    assert "with quantized.py beside it" in outcome.err
