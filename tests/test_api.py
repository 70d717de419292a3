"""The Python API: recipes by name, configs without a recipe, models in memory; saved, loaded, exported."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

import psaq_mm
from psaq_mm.engine.analysis import latency
from psaq_mm.errors import PSAQError, UsageError
from tests.conftest import ROOT, SHORT_RUN, SIZE

timm = pytest.importorskip("timm")

SHORT = {key: value for key, value in SHORT_RUN.items() if key.startswith("dfq.")}


def small_vit() -> nn.Module:
    """Of timm, 32 channels wide, with weights of a seed."""
    torch.manual_seed(0)
    options = {"img_size": SIZE, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


@pytest.fixture(scope="module")
def in_memory():
    model = small_vit()
    before = copy.deepcopy(model.state_dict())
    calls: list[tuple[str, int, int]] = []
    result = psaq_mm.quantize(
        model, image_size=SIZE, bits="w4a8", options=SHORT, progress=lambda *call: calls.append(call)
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return model, result, calls


def test_a_model_in_memory_is_quantized(in_memory):
    model, result, calls = in_memory
    assert type(result.model) is type(model) and not result.model.training
    assert result.metrics is None and result.work_dir is None
    assert result.coverage.quantized > 10 and all(row.reason for row in result.coverage.rows if row.bits is None)
    assert result.samples.images.shape == (6, 3, SIZE, SIZE)
    assert isinstance(result.samples.picture(), Image.Image)
    assert "W4A8" in repr(result) and len(repr(result)) < 200 and len(repr(result.samples)) < 80
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        ours, theirs = result.model(images), model(images)
    assert 0 < float((ours - theirs).abs().max()) < float(theirs.abs().max())
    assert [stage for stage, step, total in calls if step == total] == ["generate", "calibrate", "distill"]


def test_the_same_seed_gives_the_same_bits(in_memory):
    model, result, _ = in_memory
    again = psaq_mm.quantize(model, image_size=SIZE, bits="w4a8", options=SHORT, progress=False)
    assert torch.equal(again.samples.images, result.samples.images)
    other = psaq_mm.quantize(model, image_size=SIZE, bits="w4a8", options=SHORT, progress=False, seed=1)
    assert not torch.equal(other.samples.images, result.samples.images)


def test_a_model_in_memory_is_analyzed():
    model, calls = small_vit(), []
    before = copy.deepcopy(model.state_dict())
    options = {**SHORT, "dfq.quantization.first_layer": 8}
    table = psaq_mm.analyze(
        model,
        bits="w4a8",
        widths=(8, 4),
        images=2,
        image_size=SIZE,
        options=options,
        progress=lambda *c: calls.append(c),
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {row.bits for row in table.rows} == {4, 8} and table.size == (SIZE, SIZE) and table.bits == (4, 8)
    assert all(row.logits > 0 for row in table.rows if row.bits == 4)
    assert [stage for stage, step, total in calls if step == total] == ["generate", *["calibrate", "analyze"] * 2]
    first = next(iter(table.operations))
    assert table.recipe_bits[first] == {"weight": 8, "input": 8}
    overrides = table.overrides("size=0.19", "logits")
    assert {one["weight_bits"] for one in overrides} <= {4, 8}
    options["dfq.quantization.overrides"] = overrides
    result = psaq_mm.quantize(model, bits="w4a8", image_size=SIZE, options=options, progress=False)
    bits = {row.name: row.bits for row in result.coverage.rows}
    assert all(bits[f"{one['pattern']}.weight"] == one["weight_bits"] for one in overrides) and overrides


def test_the_layers_of_a_model_in_memory_are_timed(monkeypatch):
    for package in ("onnx", "onnxscript", "openvino"):
        pytest.importorskip(package, reason="the extra [deploy] is not installed")
    monkeypatch.setattr(latency, "seconds_of", lambda layer, inputs, engine: {"32": 2e-3, "8": 1e-3})
    calls: list[tuple[str, int, int]] = []
    table = psaq_mm.analyze(
        small_vit(),
        widths=(8,),
        images=1,
        image_size=SIZE,
        options=SHORT,
        progress=lambda *c: calls.append(c),
        engine="openvino",
    )
    # each layer runs once for an image
    assert set(table.latency["openvino"]) == set(table.operations)
    assert all(seconds == {"32": 2e-3, "8": 1e-3} for seconds in table.latency["openvino"].values())
    assert calls[-1][0] == "latency" and calls[-1][1] == calls[-1][2]
    overrides = table.overrides("latency=0.7")
    result = psaq_mm.quantize(
        small_vit(), image_size=SIZE, options={**SHORT, "dfq.quantization.overrides": overrides}, progress=False
    )
    kept = {one["pattern"] for one in overrides if one["keep_fp"]}
    bits = {row.name.rpartition(".")[0]: row.bits for row in result.coverage.rows if row.kind in ("weight", "product")}
    assert kept and {name for name in table.operations if bits[name] is None} == kept
    with pytest.raises(PSAQError, match="engine 'tensorrt' is unknown"):
        psaq_mm.analyze(small_vit(), engine="tensorrt")


def test_the_analysis_of_a_model_in_memory_writes_no_files(tmp_path):
    with pytest.raises(UsageError, match="work_dir is for configs"):
        psaq_mm.analyze(small_vit(), work_dir=tmp_path)
    with pytest.raises(UsageError, match=r"widths \[1\] are not valid"):
        psaq_mm.analyze(small_vit(), widths=[1])


def test_saved_and_loaded_it_is_the_same(in_memory, tmp_path):
    _, result, _ = in_memory
    folder = result.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {
        "quantized.pth",
        "coverage.json",
        "samples.png",
        "report.json",
        "report.html",
    }
    report = json.loads((folder / "report.json").read_text())
    assert report["notes"] == {} and len(report["comparisons"]) == 4 and len(report["histograms"]) == 12
    # top-5 of ten classes, and the quantized model's own favourite where it is another
    assert all(len(one["rows"]) in (5, 6) for one in report["comparisons"])
    assert len(json.loads((folder / "coverage.json").read_text())["rows"]) == len(result.coverage.rows)
    loaded = psaq_mm.load(folder, small_vit())
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(loaded(images), result.model(images))
    # another architecture than the name alone says: timm makes the full width
    with pytest.raises(PSAQError, match="belongs to another model than VisionTransformer"):
        psaq_mm.load(folder)


def test_it_is_exported(in_memory, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra [deploy] is not installed")
    import onnxruntime

    _, result, _ = in_memory
    with pytest.raises(UsageError, match=r"size \[64, 64\] is not valid: give a number"):
        psaq_mm.export(result, tmp_path / "vit.onnx", size=[SIZE, SIZE])
    (path,) = psaq_mm.export(result, tmp_path / "vit.onnx", size=SIZE)
    session = onnxruntime.InferenceSession(path)
    images = torch.randn(1, 3, SIZE, SIZE)
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = result.model(images)
    error = (torch.from_numpy(found) - expected).norm() / expected.norm()
    # other kernels round a few values to the neighbouring integer
    assert float(error) < 0.1


def nano(tmp_path: Path, **changes) -> Path:
    """mmpretrain's config of the demo's classifier alone, without a recipe."""
    cfg = Config.fromfile(ROOT / "configs/demo/deit_nano.py")
    cfg.merge_from_dict(changes)
    cfg.dump(tmp_path / "plain.py")
    return tmp_path / "plain.py"


CHECKPOINT = ROOT / "configs/demo/deit_nano.pth"


@pytest.fixture(scope="module")
def by_name():
    return psaq_mm.quantize("demo/deit_nano_w8a8", bits="w4a8", options=SHORT, evaluate=False, progress=False)


def test_a_recipe_by_name(by_name):
    assert type(by_name.model).__name__ == "ImageClassifier" and by_name.metrics is None
    assert by_name.quantization["weight_bits"] == 4 and by_name.quantization["activation_bits"] == 8


def test_its_files_open_in_the_librarys_own_api(by_name, tmp_path):
    from mmpretrain import get_model

    folder = by_name.save(tmp_path)
    model = get_model(str(folder / "quantized.py"), pretrained=str(folder / "quantized.pth"), device="cpu")
    loaded = psaq_mm.load(folder)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = by_name.model(images)[0]
        assert torch.equal(model(images)[0], expected) and torch.equal(loaded(images)[0], expected)


def test_any_config_of_a_library(tmp_path):
    path, cwd = nano(tmp_path), os.getcwd()
    options = {**SHORT, "dfq.distill.generator.micro_batch": None}
    runs = [
        psaq_mm.quantize(model, CHECKPOINT, "w8a8", SIZE, options=options, evaluate=False, progress=False)
        for model in (path, Config.fromfile(path))
    ]
    # an option that is not the demo's: it comes from the full-size recipe of the library
    assert {one.quantization["softmax_granularity"] for one in runs} == {"per_row"}
    assert torch.equal(*(one.samples.images for one in runs)) and os.getcwd() == cwd


def test_with_a_test_set_there_are_metrics(recipe):
    options = {"dfq.distill.cycles": 0}
    result = psaq_mm.quantize(recipe(), options=options, progress=False)
    assert set(result.metrics) == {"float", "quantized"}
    assert "coco/bbox_mAP" in result.metrics["float"] and "coco/bbox_mAP" in result.metrics["quantized"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: psaq_mm.quantize("no_such_recipe"), "there is no config no_such_recipe", id="name"),
        pytest.param(lambda: psaq_mm.quantize(nn.Linear(2, 2)), "no backbone and is not a timm model", id="model"),
        pytest.param(lambda: psaq_mm.quantize(small_vit(), "a.pth"), "checkpoint is for configs", id="checkpoint"),
        pytest.param(lambda: psaq_mm.quantize(small_vit(), bits="8"), "bits '8' cannot be read", id="bits"),
        pytest.param(lambda: psaq_mm.quantize(small_vit(), image_size=50), "images of 50x50 do not fit", id="size"),
        pytest.param(lambda: psaq_mm.quantize(3), "int is no model", id="no-model"),
        pytest.param(lambda: psaq_mm.quantize("demo/deit_nano_w8a8", bits=8), "bits 8 cannot be read", id="number"),
        pytest.param(lambda: psaq_mm.quantize("demo/deit_nano_w8a8", seed=-1), "seed -1 is not valid", id="seed"),
        pytest.param(lambda: psaq_mm.quantize("demo/deit_nano_w8a8", options="x"), "is no dictionary", id="options"),
        pytest.param(
            lambda: psaq_mm.quantize("demo/deit_nano_w8a8", options={"generate.images": 4}),
            "'generate.images' is no key of a recipe: begin with 'dfq.'",
            id="option",
        ),
        pytest.param(lambda: psaq_mm.quantize("demo/deit_nano_w8a8", progress=3), "progress 3", id="progress"),
        pytest.param(lambda: psaq_mm.export(small_vit(), "a.onnx", 64), "a bare module has no record", id="module"),
        pytest.param(lambda: psaq_mm.load("no-such-folder"), "holds no quantized model", id="load"),
        pytest.param(
            lambda: psaq_mm.export("folder", "a.pt", (8, 8)), "a.pt ends neither in .onnx nor in .xml", id="suffix"
        ),
    ],
)
def test_wrong_arguments_are_one_line(call, message):
    with pytest.raises(UsageError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
