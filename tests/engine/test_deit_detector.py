"""A detector made of three libraries' parts: trained by mmdet, quantized, opened by mmdet alone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from rich.console import Console

from psaq_mm.engine import preparation
from psaq_mm.engine.evaluation import evaluate
from psaq_mm.engine.job import Job
from psaq_mm.errors import PSAQError
from psaq_mm.models import AttentionTaps, without_downloads
from psaq_mm.models.features import output_function
from psaq_mm.quantization import quantizers
from tests.conftest import ROOT, SHORT_RUN, SIZE, named, random_weights

RECIPE = ROOT / "configs" / "mask_rcnn_deit_s_w8a8.py"
WIDTH = 16
SMALLER = {
    # Its twelve layers stay.
    "model.backbone.arch": {
        "embed_dims": WIDTH,
        "num_layers": 12,
        "num_heads": 2,
        "feedforward_channels": 32,
        "_delete_": True,
    },
    "model.backbone.init_cfg": None,
    "model.neck.0.embed_dim": WIDTH,
    "model.neck.0.norm_cfg.num_groups": 4,
    "model.neck.1.in_channels": [WIDTH] * 4,
    "model.neck.1.out_channels": 32,
    "model.roi_head.bbox_head.num_classes": 5,
    "model.roi_head.mask_head.num_classes": 5,
}
HEADS = (
    "model.rpn_head.in_channels",
    "model.rpn_head.feat_channels",
    "model.roi_head.bbox_roi_extractor.out_channels",
    "model.roi_head.bbox_head.in_channels",
    "model.roi_head.bbox_head.fc_out_channels",
    "model.roi_head.mask_roi_extractor.out_channels",
    "model.roi_head.mask_head.in_channels",
    "model.roi_head.mask_head.conv_out_channels",
)
SMALLER |= dict.fromkeys(HEADS, 32)


def shrunken(path: Path, options: dict) -> Config:
    cfg = Config.fromfile(path)
    for some in (SMALLER, options):
        cfg.merge_from_dict(copy.deepcopy(some))
    preparation.import_host(cfg)
    init_default_scope("mmdet")
    return cfg


@pytest.fixture(scope="module")
def recipe(tiny_recipe, tmp_path_factory) -> Config:
    """The recipe, shrunk, on drawn scenes instead of COCO, and a checkpoint of random weights for it."""
    folder = tmp_path_factory.mktemp("deit")
    cfg = shrunken(RECIPE, {**SHORT_RUN, "model.test_cfg.rcnn.score_thr": 0.0, "load_from": str(folder / "float.pth")})
    cfg.test_dataloader, cfg.test_evaluator = tiny_recipe.test_dataloader, tiny_recipe.test_evaluator
    torch.save({"state_dict": float_model(cfg).state_dict()}, cfg.load_from)
    return named(cfg, folder / "work")


def float_model(cfg: Config) -> torch.nn.Module:
    return random_weights(MODELS.build(without_downloads(cfg.model)))


@pytest.mark.parametrize("size", [(64, 96), (96, 160)], ids=str)
@torch.no_grad()
def test_taps_and_places_at_any_size(recipe, size):
    init_default_scope("mmdet")
    model, images = float_model(recipe), torch.randn(2, 3, *size)
    with AttentionTaps(model.backbone) as taps:
        model.backbone(images)
        found = taps.take()
    assert [one.tokens.shape[2] for one in found] == [size[0] // 16 * size[1] // 16 + 1] * 12
    assert all(one.has_class_token for one in found)
    maps = output_function("backbone", model)(model, images)
    assert [tuple(one.shape[1:]) for one in maps] == [(WIDTH, size[0] // 16, size[1] // 16)] * 4
    levels = output_function("neck", model)(model, images)
    assert [tuple(one.shape[2:]) for one in levels[:4]] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]
    *objectness, scores = output_function("logits", model)(model, images)
    assert len(objectness) == 5 and scores.shape[1] == 6


def test_a_whole_run_and_what_mmdet_opens_of_it(recipe):
    job = Job(copy.deepcopy(recipe), Console(quiet=True))
    job.run()
    assert [len(row.metrics) > 0 for row in job.results.rows] == [True, True]
    assert {name.split(".")[1] for name, _ in quantizers(job.runner.student)} == {"patch_embed", "layers"}
    work = Path(recipe.work_dir)
    assert "mmpretrain" not in Config.fromfile(work / "quantized.py").custom_imports.imports
    # A process of its own, where nothing but the artifact says what to import.
    code = (
        "import sys, numpy; from mmdet.apis import inference_detector, init_detector;"
        "model = init_detector(*sys.argv[1:], device='cpu');"
        f"found = inference_detector(model, numpy.zeros(({SIZE}, {SIZE}, 3), numpy.uint8)).pred_instances;"
        "print(type(model.backbone).__name__, type(model.neck).__name__, len(found) > 0)"
    )
    paths = [str(work / f"quantized.{suffix}") for suffix in ("py", "pth")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-3:] == ["QuantVisionTransformer", "Sequential", "True"]


@pytest.mark.parametrize(
    "options",
    [{"dfq.distill.distill_on": "neck"}, {"dfq.distill.distill_on": "logits", "dfq.quantization.scope": "model"}],
    ids=["neck", "whole-model"],
)
def test_other_places_and_scopes(recipe, tmp_path, options):
    cfg = copy.deepcopy(recipe)
    cfg.merge_from_dict(options)
    runner = Job(named(cfg, tmp_path), Console(quiet=True)).runner
    runner.train()
    runner.check_calibrated()
    parts = {name.split(".")[0] for name, _ in quantizers(runner.student)}
    assert ("neck" in parts) == ("dfq.quantization.scope" in options)


def test_mmdet_trains_it(tiny_recipe, scenes, tmp_path):
    """Two steps of mmdet's own training, with the base's optimizer and schedule and without the ImageNet weights."""
    demo = Config.fromfile(ROOT / "configs" / "demo" / "mask_rcnn_swin_nano.py")
    loader = demo.train_dataloader.to_dict()
    loader["dataset"] |= {"data_root": f"{scenes}/", "images": 2, "size": SIZE}
    loader |= {"batch_size": 1, "num_workers": 0, "persistent_workers": False}
    cfg = shrunken(ROOT / "configs" / "_base_" / "mask_rcnn_deit_s.py", {})
    cfg.train_dataloader = loader
    cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 2}
    for key in ("val", "test"):
        cfg[f"{key}_dataloader"] = cfg[f"{key}_evaluator"] = cfg[f"{key}_cfg"] = None
    runner = Runner.from_cfg(named(cfg, tmp_path))
    before = copy.deepcopy(runner.model.state_dict())
    runner.train()
    after = runner.model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    trained = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert trained == {"backbone", "neck", "rpn_head", "roi_head"}
    assert list(tmp_path.glob("*.pth"))


def test_without_a_checkpoint_it_says_how_to_train_one(tmp_path, monkeypatch, run_dfq):
    monkeypatch.chdir(tmp_path)
    outcome = run_dfq(None, "--cfg-options", "model.backbone.init_cfg=None", config="mask_rcnn_deit_s_w8a8")
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
    assert outcome.code == 1
    assert "no checkpoint at work_dirs/mask_rcnn_deit_s/epoch_12.pth: there is no public one of this model" in line
    base = ROOT / "configs" / "_base_" / "mask_rcnn_deit_s.py"
    assert f"python tools/train.py {base} --work-dir work_dirs/mask_rcnn_deit_s" in line


@pytest.mark.parametrize("library", ["mmdet", "mmpretrain", "mmseg"])
def test_a_missing_library_is_named_with_the_part_that_needs_it(library, monkeypatch):
    monkeypatch.setattr(preparation, "find_spec", lambda name: None if name == library else find_spec(name))
    part = {
        "mmdet": "its default_scope",
        "mmpretrain": "mmpretrain.VisionTransformer",
        "mmseg": "mmseg.Feature2Pyramid",
    }[library]
    said = rf"the config needs {library} \({part}\), which is not installed: pip install onedl-\w+ or {library}"
    with pytest.raises(PSAQError, match=said):
        preparation.import_host(Config.fromfile(RECIPE))


def test_the_libraries_of_a_config_are_imported_without_output():
    """In a new process: what a library prints, it prints at its first import."""
    code = """
from mmengine.config import Config
from psaq_mm.engine.preparation import import_host
import_host(Config({"default_scope": "mmdet"}))
import mmdet.engine, mmdet.models  # as mmengine's registries do
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]


def test_a_library_for_another_mmcv_is_one_line(monkeypatch):
    def fail(*modules):
        raise AssertionError("MMCV==9.9 is used but incompatible")

    monkeypatch.setattr(preparation, "import_quietly", fail)
    with pytest.raises(PSAQError, match="needs mmdet .its default_scope., which cannot be imported .MMCV==9.9"):
        preparation.import_host(Config.fromfile(RECIPE))


OWN = """
from mmdet.registry import MODELS
from mmpretrain.models import VisionTransformer

@MODELS.register_module(force=True)
class ViTOfTheUser(VisionTransformer):
    pass
"""


def test_a_backbone_that_the_user_has_registered(recipe, tmp_path, monkeypatch):
    (tmp_path / "vit_of_the_user.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = copy.deepcopy(recipe)
    cfg.model.backbone.type = "ViTOfTheUser"
    cfg.custom_imports.imports = ["psaq_mm", "vit_of_the_user"]
    cfg.load_from, cfg.dfq.distill.cycles = str(tmp_path / "float.pth"), 0
    cfg.dump(tmp_path / "recipe.py")
    # which imports the user's module
    cfg = named(Config.fromfile(tmp_path / "recipe.py"), tmp_path / "work")
    init_default_scope("mmdet")
    torch.save({"state_dict": float_model(cfg).state_dict()}, cfg.load_from)
    job = Job(cfg, Console(quiet=True))
    job.run()
    described, checkpoint = job.runner.artifact_paths
    opened = Config.fromfile(described)
    assert opened.model.backbone.host == "vit_of_the_user.ViTOfTheUser"
    assert "vit_of_the_user" in opened.custom_imports.imports
    assert evaluate(opened, checkpoint, tmp_path / "again") == job.results.rows[1].metrics
