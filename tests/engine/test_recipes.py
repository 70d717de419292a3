"""Every recipe in configs/ builds with random weights, quantizes its backbone and infers one image."""

from __future__ import annotations

import importlib
import re

import pytest
import torch
from mmengine.config import Config

from dev import model_index
from psaq_mm.cli import import_host
from psaq_mm.engine.runner import DFQRunner
from psaq_mm.models import calibration_function
from psaq_mm.quantization import calibrating, quantizers
from psaq_mm.utils.config_lookup import packaged_configs
from tests.conftest import ROOT, named

CONFIGS = packaged_configs()
RECIPES = [name for name in CONFIGS if re.search(r"_w\da\d$", name)]
# Detectors and segmentors are as large on a small image; a classifier's position embedding fits its own size only.
SMALL = (128, 128)
# The biggest, whose smaller siblings run every time. Their recipes at 4 bits differ in that alone.
BIG = ("upernet_swin_s", "deit_base", "cascade_mask_rcnn_swin_s", "mask_rcnn_swin_s", "swin_small")
# What comes first and what comes last; heads where they are quantized.
EIGHT_BITS = ("backbone.patch_embed", "model.patch_embed", "model.head")
SAMPLES = {
    "mmdet": ("mmdet.structures", "DetDataSample"),
    "mmseg": ("mmseg.structures", "SegDataSample"),
    "mmpretrain": ("mmpretrain.structures", "DataSample"),
}


def test_every_config_that_quantizes_is_among_them():
    listed = {model["Name"] for model in model_index.read_models(ROOT) if model_index.bits(model) != "FP32"}
    assert set(RECIPES) == listed and len(RECIPES) == 56


def cases() -> list:
    return [pytest.param(name, marks=[pytest.mark.full] if name.startswith(BIG) else [], id=name) for name in RECIPES]


@pytest.fixture
def runner(request, tmp_path, monkeypatch) -> DFQRunner:
    """The recipe's runner with teacher and student built, as for a run, but for the checkpoint."""
    cfg = Config.fromfile(CONFIGS[request.param])
    import_host(cfg)
    # the recipes' own search for weight ranges takes seconds on large models
    cfg.dfq.quantization.weight_observer = "minmax"
    if cfg.default_scope != "mmpretrain":
        cfg.dfq.generate.image_size = SMALL
    monkeypatch.setattr(DFQRunner, "load_or_resume", lambda self: None)
    runner = DFQRunner.from_cfg(named(cfg, tmp_path))
    runner.prepare()
    return runner


@torch.no_grad()
@pytest.mark.parametrize("runner", cases(), indirect=True)
def test_it_builds_is_quantized_and_infers(runner):
    student, size = runner.student, runner.stages["generate"].image_size
    widths = {True: runner.policy.weight_bits, False: runner.policy.activation_bits}
    for name, quantizer in quantizers(student):
        expected = 8 if name.startswith(EIGHT_BITS) else widths["weight" in name]
        assert quantizer.spec.bits == expected, name
        assert runner.scope == "model" or name.startswith("backbone."), name
    normalised = torch.randn(1, 3, *size, device=runner.device)
    with calibrating(student):
        calibration_function(runner.scope, runner.teacher)(student, normalised)
    runner.model = student
    runner.check_calibrated()
    host, kind = SAMPLES[runner.cfg.default_scope]
    sample = getattr(importlib.import_module(host), kind)()
    sample.set_metainfo({"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)})
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    (found,) = student.test_step({"inputs": [image], "data_samples": [sample]})
    if "pred_sem_seg" in found:
        classes = runner.cfg.model.decode_head.num_classes
        assert found.pred_sem_seg.data.shape == (1, *size) and len(found.seg_logits.data) == classes
    elif "pred_score" in found:
        # timm's classifiers have ImageNet's classes without a word in the config
        assert found.pred_score.shape == (runner.cfg.model.get("head", {"num_classes": 1000})["num_classes"],)
        assert found.pred_score.sum() == pytest.approx(1, abs=1e-4)
    else:
        assert set(found.pred_instances.keys()) == {"bboxes", "scores", "labels", "masks"}


@pytest.mark.parametrize("runner", ["deit_base_w4a8"], indirect=True)
def test_no_averaging_hook_replaces_the_checkpoints_weights(runner):
    assert any(hook["type"] == "EMAHook" for hook in Config.fromfile(CONFIGS["deit_base_w4a8"]).custom_hooks)
    assert "EMAHook" not in {type(hook).__name__ for hook in runner.hooks}
