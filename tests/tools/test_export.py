"""``tools/export.py``: from what a run left to a detector that an engine runs, and every wrong way to call it."""

from __future__ import annotations

import copy
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console

from psaq_mm.engine.job import Job
from psaq_mm.quantization import Quantizer
from tests.conftest import ROOT, SIZE, named

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra [deploy] is not installed")


@pytest.fixture
def run_export(run_here):
    """Runs ``tools/export.py`` in this process."""
    return partial(run_here, "export.py")


@pytest.fixture(scope="module")
def artifact(finished) -> list[Path]:
    folder = Path(finished.runner.work_dir)
    return [folder / "quantized.py", folder / "quantized.pth"]


@pytest.mark.parametrize(
    ("kind", "suffix", "part", "batch"),
    [
        pytest.param("onnx", ".onnx", "backbone", 2, id="onnxruntime-backbone"),
        pytest.param("openvino", ".xml", "backbone+neck", 1, id="openvino-neck"),
        pytest.param("onnx", ".onnx", "model", 1, id="onnxruntime-model"),
    ],
)
def test_the_hosts_runner_evaluates_what_is_deployed(
    run_export, artifact, finished, tmp_path, kind, suffix, part, batch
):
    out = tmp_path / "first" / f"detector{suffix}"
    options = ["--format", kind, "--part", part, "--batch", batch, "--size", SIZE, SIZE]
    outcome = run_export(*artifact, *options, "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    written = {path.name for path in out.parent.iterdir()}
    others = {"detector.bin"} if kind == "openvino" else set()
    if part == "model":
        others = {"detector.bbox_head.onnx", "detector.mask_head.onnx"}
    assert written == {out.name, "detector.py", "detector.pth"} | others
    assert {Path(line.partition(": ")[0]).name for line in outcome.out.splitlines()} == written
    # the files belong together and may be moved
    folder = tmp_path / "moved"
    shutil.move(out.parent, folder)
    cfg = named(Config.fromfile(folder / "detector.py"), tmp_path / "work")
    cfg.load_from = str(folder / "detector.pth")
    figures = Runner.from_cfg(cfg).test()
    expected = finished.results.rows[1].metrics
    assert figures.keys() == expected.keys() and expected["coco/bbox_mAP"] >= 0
    for key, value in expected.items():
        # proposals of random weights are all alike, so that single ties decide: a trained detector's figures are in
        # results/deploy.json
        assert figures[key] == pytest.approx(value, abs=0.05), key


@pytest.fixture(scope="module")
def whole(tiny_recipe, tiny_checkpoint, tmp_path_factory):
    """A detector that is quantized as a whole."""
    cfg = copy.deepcopy(tiny_recipe)
    overrides = [{"pattern": "backbone.patch_embed", "bits": 8}, {"pattern": "*.fc_cls", "keep_fp": True}]
    overrides.append({"pattern": "neck.lateral_convs.*", "weight_bits": 7})
    cfg.merge_from_dict({"dfq.quantization.scope": "model", "dfq.quantization.overrides": overrides})
    job = Job(named(cfg, tmp_path_factory.mktemp("whole")), Console(quiet=True))
    job.run()
    return job


@pytest.mark.parametrize("part", ["backbone", "backbone+neck"])
def test_what_is_left_of_a_model_that_is_quantized_as_a_whole_stays_quantized(run_export, whole, tmp_path, part):
    """In a folder with an apostrophe: the config's text has it in a string."""
    out = tmp_path / "O'Brien" / "detector.onnx"
    config, checkpoint = whole.runner.artifact_paths
    outcome = run_export(config, checkpoint, "--part", part, "--size", SIZE, SIZE, "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    cfg = named(Config.fromfile(out.with_suffix(".py")), tmp_path / "work")
    patterns = [one.pattern for one in cfg.model.quantization.overrides]
    assert patterns == ["*.fc_cls", "neck.lateral_convs.*"][: 1 if "neck" in part else 2]
    cfg.load_from = str(out.with_suffix(".pth"))
    runner = Runner.from_cfg(cfg)
    figures = runner.test()
    assert any(isinstance(module, Quantizer) for module in runner.model.roi_head.modules())
    assert cfg.model.backbone.file == f"{out.parent}/detector.onnx"
    for key, value in whole.results.rows[1].metrics.items():
        # see above: single ties of random weights
        assert figures[key] == pytest.approx(value, abs=0.05), key


def test_the_file_says_where_it_comes_from(run_export, artifact, tmp_path):
    import onnx

    out = tmp_path / "detector.onnx"
    assert run_export(*artifact, "--size", SIZE, SIZE, "-o", out).code == 0
    proto = onnx.load(out)
    said = {prop.key: prop.value for prop in proto.metadata_props}
    assert json.loads(said["psaq_mm.quantization"])["weight_bits"] == 8
    assert "torch" in json.loads(said["psaq_mm.versions"])
    assert json.loads(said["psaq_mm.coverage"]) and "QuantSwinTransformer" in said["psaq_mm.config"]


def test_nothing_of_the_machine_travels_with_the_file(run_export, artifact, tmp_path):
    out = tmp_path / "detector.onnx"
    assert run_export(*artifact, "--size", SIZE, SIZE, "-o", out).code == 0
    for file in (out, out.with_suffix(".py")):
        content = file.read_bytes()
        assert not [path for path in (ROOT, artifact[0].parent, tmp_path) if str(path).encode() in content], file.name


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        pytest.param(["--size", "50", "64"], "images of 50x64 do not fit", 2, id="size"),
        pytest.param(["--size", "64", "64", "--opset", "11"], "opset 11 is too old", 1, id="opset"),
        pytest.param(["--size", "64", "64", "--format", "openvino"], "ends in .xml", 2, id="suffix"),
    ],
)
def test_wrong_options_are_one_line(run_export, artifact, tmp_path, arguments, message, code):
    outcome = run_export(*artifact, *arguments, "-o", tmp_path / "out.onnx")
    assert outcome.code == code and message in outcome.err and outcome.err.count("\n") == 1
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*out*"))


def test_other_checkpoints_are_one_line(run_export, artifact, tiny_checkpoint, tiny_recipe, tmp_path):
    config, checkpoint = artifact
    state = torch.load(checkpoint, weights_only=True)
    empty = {k: torch.zeros_like(v) if k.endswith("initialized") else v for k, v in state["state_dict"].items()}
    torch.save({"meta": {}, "state_dict": empty}, tmp_path / "uncalibrated.pth")
    narrow = tmp_path / "narrow.py"
    cfg = Config.fromfile(config)
    cfg.model.backbone.quantization.weight_bits = 4
    cfg.dump(narrow)
    plain = tmp_path / "plain.py"
    tiny_recipe.dump(plain)
    for given, message in [
        ((config, tmp_path / "none.pth"), "there is no checkpoint"),
        ((config, tiny_checkpoint), "is a float model's, the config a quantized one's: quantize it with tools/dfq.py"),
        ((config, tmp_path / "uncalibrated.pth"), "calibrate the model or load a calibrated checkpoint"),
        ((narrow, checkpoint), "does not fit"),
        ((plain, tiny_checkpoint), "names no quantized model"),
    ]:
        outcome = run_export(*given, "--size", SIZE, SIZE, "-o", tmp_path / "out.onnx")
        assert outcome.code in (1, 2) and message in outcome.err and outcome.err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_a_missing_engine_names_the_extra(run_export, artifact, tmp_path, monkeypatch):
    import psaq_mm.deployment.export as deploy

    monkeypatch.setattr(deploy, "find_spec", lambda name: None)
    outcome = run_export(*artifact, "--format", "openvino", "--size", SIZE, SIZE, "-o", tmp_path / "out.xml")
    assert outcome.code == 1 and "openvino is not installed: pip install 'psaq_mm[deploy]'" in outcome.err
