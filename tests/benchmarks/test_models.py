"""``benchmarks/models.py`` and its parts on a small detector; times themselves are not tested."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import model_startup, models
from benchmarks.model_files import ENGINE_OF, ModelFiles, load_model
from benchmarks.model_inputs import noise_images, part_inputs, real_images
from benchmarks.model_run import GLUE, FixedRois, WholeModel, drawn_boxes, fix_rois, predict, score_of_candidates
from benchmarks.nncf_parts import quantize_with_nncf
from psaq_mm.deployment import open_session
from psaq_mm.deployment.parts import static_parts
from psaq_mm.engine.builder import build_pair
from psaq_mm.errors import UsageError
from psaq_mm.quantization import sqnr
from tests.conftest import SIZE

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra [deploy] is not installed")
needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed (requirements/benchmark.txt)")
HEADS = ("bbox_head", "mask_head")


@pytest.fixture
def detector(recipe):
    """A recipe and its float model."""
    cfg = recipe()
    return cfg, build_pair(cfg)[0]


@pytest.fixture(scope="module")
def exported(tiny_recipe, tiny_checkpoint, tmp_path_factory):
    """The float model, and the files of its parts for both engines."""
    teacher = build_pair(tiny_recipe)[0]
    files = ModelFiles(tiny_recipe, tmp_path_factory.mktemp("files"), (SIZE, SIZE), 1)
    files.export("fp32", teacher)
    files.save_torch(teacher)
    for contender in files.files:
        files.save_deployed(contender, teacher, static_parts(teacher))
    return teacher, files


def found_boxes(model: nn.Module, batch) -> tuple[torch.Tensor, torch.Tensor]:
    found = predict(model, batch)[0].pred_instances
    return found.bboxes, found.masks


def test_drawn_boxes_lie_in_the_image():
    boxes = drawn_boxes(200, (48, 96), 0)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.shape == (200, 4) and boxes.min() >= 0
    assert (boxes[:, 2] <= 96.01).all() and (boxes[:, 3] <= 48.01).all()
    assert sides.min() >= 15.99 and sides.max() <= 48.01


def test_numbers_of_boxes_are_fixed_and_both_selections_still_run(detector):
    _, teacher = detector
    batch = noise_images(teacher, (SIZE, SIZE), 1)[0]
    ran = []
    for module, method in ((teacher.rpn_head, "predict"), (teacher.roi_head, "predict_bbox")):
        original = getattr(module, method)
        setattr(module, method, lambda *a, own=original, name=method, **k: (ran.append(name), own(*a, **k))[1])
    fix_rois(teacher, (SIZE, SIZE), FixedRois(30, 7))
    boxes, masks = found_boxes(teacher, batch)
    assert boxes.shape == (7, 4) and masks.shape == (7, SIZE, SIZE) and ran == ["predict", "predict_bbox"]
    inputs = part_inputs(teacher, static_parts(teacher), [batch], limit=None)
    assert {name: len(one[0]) for name, one in inputs.items()} == {"images": 1, "bbox_head": 30, "mask_head": 7}
    again, _ = found_boxes(teacher, batch)
    assert torch.equal(boxes, again)  # mmdet's scaling in place does not reach the drawn boxes


def test_so_many_candidates_exceed_the_score(detector):
    _, teacher = detector
    batch = noise_images(teacher, (SIZE, SIZE), 1)[0]
    fix_rois(teacher, (SIZE, SIZE), FixedRois(30, 7))
    (features,) = part_inputs(teacher, static_parts(teacher), [batch], limit=None)["bbox_head"]
    with torch.no_grad():
        scores = teacher.roi_head.bbox_head(features)[0].softmax(-1)[:, :-1]
    score = score_of_candidates(teacher, batch, 30)
    assert int((scores >= score).sum()) == 30
    assert "predict_by_feat" not in vars(teacher.roi_head.bbox_head)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_loaded_contender_predicts_what_torch_does_and_is_timed_by_part(exported, engine):
    teacher, files = exported
    batch = noise_images(teacher, (SIZE, SIZE), 1)[0]
    run = {}
    for contender in (("torch", "fp32"), (engine, "fp32")):
        model = load_model(files.place(contender))
        fix_rois(model, (SIZE, SIZE), FixedRois(20, 5))
        run[contender] = WholeModel(model, static_parts(teacher), batch)
        run[contender]()
        (seconds,) = run[contender].seconds
        assert set(seconds) == {"images", *HEADS, GLUE} and min(seconds.values()) > 0
    masks = [found_boxes(one.model, batch)[1] for one in run.values()]
    # a pixel of a mask whose score is the threshold may fall on either side
    assert (masks[0] != masks[1]).float().mean() < 1e-3 and masks[0].any()


def test_a_contender_starts_in_a_process_of_its_own(exported):
    _, files = exported
    contender = ("onnxruntime", "fp32")
    found = model_startup.startup(contender, files.place(contender), (3, SIZE, SIZE), 1, FixedRois(20, 5))
    assert found["seconds_load"] > 0 and found["seconds_first"] > 0
    assert found["memory_mib"] is None or found["memory_mib"] > 0


def test_images_are_padded_and_too_small_a_size_is_one_line(detector):
    cfg, teacher = detector
    cfg.real_images.images = 4
    cfg.real_images.data_root = cfg.test_dataloader.dataset.data_root + "real/"
    (images, samples), _ = real_images(cfg, teacher, (160, 128), 2)
    assert images.shape == (1, 3, 160, 128) and not images[..., 128:, :].any()
    assert tuple(samples[0].img_shape[:2]) == (128, 128)
    with pytest.raises(UsageError, match="0 of 4 training images fit into 64x64, 1 are needed: give a larger --size"):
        real_images(cfg, teacher, (64, 64), 1)
    cfg.real_images = None
    with pytest.raises(UsageError, match="names no training images: set real_images in it, or give --random"):
        real_images(cfg, teacher, (SIZE, SIZE), 1)


@needs_nncf
def test_nncf_quantizes_a_head_for_any_number_of_rois(exported, tmp_path):
    teacher, files = exported
    part = next(one for one in static_parts(teacher) if one.name == "bbox_head")
    inputs = [torch.randn(count, *part.input_shape) for count in (4, 6)]
    target = tmp_path / "head.xml"
    quantize_with_nncf(files.files["openvino", "fp32"]["bbox_head"], target, inputs)
    assert "FakeQuantize" in target.read_text()
    session = open_session(ENGINE_OF["nncf"], target, 1)
    with torch.no_grad():
        expected = part.graph(inputs[1])
    for one, other in zip(expected, session.run(inputs[1].numpy()), strict=True):
        # 8 bits, calibrated on these very inputs
        assert sqnr(one, torch.from_numpy(np.asarray(other))) > 20


def test_a_missing_nncf_names_the_requirements(monkeypatch, run_models, tmp_path):
    monkeypatch.setattr("benchmarks.nncf_parts.find_spec", lambda name: None)
    outcome = run_models("--random", "--size", SIZE, SIZE, "--nncf", "-o", tmp_path / "out.json")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "nncf is not installed: pip install -r requirements/benchmark.txt" in outcome.err


@pytest.fixture
def run_models(run_here, tiny_recipe, tmp_path):
    """Runs ``benchmarks/models.py`` on a small recipe in this process."""
    tiny_recipe.dump(tmp_path / "tiny.py")
    return partial(run_here, "benchmarks/models.py", tmp_path / "tiny.py")


@pytest.mark.full
def test_every_stage_of_every_contender_has_a_row(monkeypatch, run_models, tmp_path):
    # Processes of their own take seconds each; a test above starts one.
    started = {"seconds_load": 0.5, "seconds_first": 0.25, "memory_mib": None}
    monkeypatch.setattr("benchmarks.model_benchmark.startup", lambda *args: started)
    out = tmp_path / "deploy_model.json"
    options = ["--rounds", 2, "--threads", 1, "--name", "tiny", "--proposals", 20, "--masks", 5]
    outcome = run_models("--random", "--size", SIZE, SIZE, *options, "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    record = json.loads(out.read_text())
    assert record["tool"] == "benchmark_models" and record["threads"] == 1 and record["cpu"]
    rows = {(row["engine"], row["precision"], row["stage"]): row for row in record["rows"]}
    contenders = [
        ("torch", "fp32"),
        *((engine, bits) for bits in ("fp32", "int8") for engine in ("onnxruntime", "openvino")),
    ]
    assert set(rows) == {(*one, stage) for one in contenders for stage in ("all", "images", *HEADS, "glue")}
    for (engine, _, stage), row in rows.items():
        assert row["model"] == "tiny" and row["rounds"] == 2 and row["fixed_rois"] and row["seconds_median"] > 0
        assert row["batch"] == {"bbox_head": 20, "mask_head": 5}.get(stage, 1)
        assert (row["file_mib"] is None) == (stage == "glue" or (engine == "torch" and stage != "all"))
    for one in contenders:
        shares = [rows[(*one, stage)]["share"] for stage in ("images", *HEADS, "glue")]
        assert sum(shares) == pytest.approx(1, abs=0.01)  # a call takes a little longer than its own clock says
    label = f"tiny {SIZE}x{SIZE}: "
    assert {f"{label}torch fp32 / int8", f"{label}openvino fp32 / int8 (all parts)"} <= set(record["ratios"])
    assert record["ratios"][f"{label}file int8 / fp32"] < 1
    assert record["startup"][f"{label}torch fp32"]["file_mib"] > 0
    profile = record["profile"][f"{label}openvino int8, images"]
    assert profile["products"] > 0 and profile["norms, softmax, GELU"] > 0
    assert f"| tiny | {SIZE}x{SIZE} | torch | fp32 |" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--random", "--size", "50", "64"], "images of 50x64 do not fit", id="size"),
        pytest.param(["--size", "64", "64", "--checkpoint", "none.pth"], "or give --random", id="checkpoint"),
    ],
)
def test_wrong_calls_are_one_line(run_models, tmp_path, arguments, message):
    outcome = run_models(*arguments, "-o", tmp_path / "deploy_model.json")
    assert outcome.code in (1, 2) and message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "deploy_model.json").exists()


def test_fixed_numbers_need_rois():
    class Segmentor(nn.Module):
        pass

    args = type("Arguments", (), {"proposals": 10, "masks": None, "random": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "static_parts", lambda model: [None])
        with pytest.raises(UsageError, match="Segmentor has no RoIs: leave out --proposals and --masks"):
            models.fixed_rois(args, Segmentor(), (torch.zeros(1), []), (SIZE, SIZE))
        args.proposals = None
        assert models.fixed_rois(args, Segmentor(), (torch.zeros(1), []), (SIZE, SIZE)) is None
