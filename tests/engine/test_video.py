"""Models for video through the whole pipeline: the shrunken recipe with another model and no test set."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.engine import DFQRunner
from psaq_mm.engine.analysis.table import SensitivityTable
from psaq_mm.engine.preparation import open_config
from psaq_mm.models import without_downloads
from psaq_mm.models.checkpoint import load_weights, read_checkpoint
from psaq_mm.quantization import quantizers
from tests.conftest import named, random_weights
from tests.models.test_trackers import PREPROCESSOR, SIZE, VIDEO, video

SUFFIX = ".weight_quantizer"
NO_TEST = dict.fromkeys(("test_dataloader", "test_evaluator", "test_cfg"))


@pytest.fixture
def video_recipe(recipe, tmp_path):
    """Makes the shrunken recipe of a model for video, with a checkpoint of random weights."""

    def make(kind: str, scope: str) -> Config:
        cfg = recipe({**NO_TEST, "dfq.quantization.scope": scope})
        cfg.model = ConfigDict({**copy.deepcopy(VIDEO[kind]), "data_preprocessor": PREPROCESSOR})
        cfg.load_from = str(tmp_path / "float.pth")
        init_default_scope("mmdet")
        model = random_weights(MODELS.build(without_downloads(cfg.model)))
        torch.save({"state_dict": model.state_dict()}, cfg.load_from)
        return cfg

    return make


def built(paths: tuple[Path, Path]) -> nn.Module:
    """The quantized model of an artifact."""
    described, checkpoint = paths
    init_default_scope("mmdet")
    model = MODELS.build(Config.fromfile(described).model).eval()
    load_weights(model, read_checkpoint(checkpoint)["state_dict"], str(checkpoint))
    return model


@pytest.mark.parametrize("scope", ["backbone", "model"])
@pytest.mark.parametrize("kind", ["mask2former", "qdtrack"])
def test_a_whole_run_and_a_video_for_its_artifact(video_recipe, kind, scope):
    runner = DFQRunner.from_cfg(video_recipe(kind, scope))
    runner.train()
    assert runner.coverage.quantized == sum(1 for _ in quantizers(runner.student)) > 40
    frames = built(runner.artifact_paths).test_step(video())[0].video_data_samples
    assert all(len(one.pred_track_instances.scores) > 0 for one in frames)


@pytest.mark.parametrize("scope", ["backbone", "model"])
def test_bits_chosen_by_sensitivity_are_those_of_the_artifact(video_recipe, scope, run_here, tmp_path):
    """The names in an analysis begin with ``detector.``, which a quantized backbone alone does not have."""
    video_recipe("qdtrack", scope).dump(tmp_path / "recipe.py")
    arguments = ["--widths", "8", "4", "--images", "2", "--tensors", "weights", "--budget", "size=0.18"]
    done = run_here("analyze.py", tmp_path / "recipe.py", *arguments, "--work-dir", tmp_path / "analysis")
    assert done.code == 0, done.err
    rows = SensitivityTable.load(tmp_path / "analysis" / "sensitivity.json").rows
    mixed = open_config(tmp_path / "analysis" / "mixed.py", {"dfq.distill.cycles": 0}, tmp_path / "mixed")
    chosen = {one["pattern"]: one["weight_bits"] for one in mixed.dfq.quantization.overrides}
    assert chosen and set(chosen) < {row.layer for row in rows} and set(chosen.values()) == {4}
    runner = DFQRunner.from_cfg(named(mixed, tmp_path / "mixed"))
    runner.train()
    found = {name.removesuffix(SUFFIX): one.spec.bits for name, one in quantizers(built(runner.artifact_paths))}
    assert {row.layer: found[row.layer] for row in rows} == {row.layer: chosen.get(row.layer, 8) for row in rows}


@pytest.mark.parametrize("prefix", ["", "detector."], ids=["detector", "tracker"])
@pytest.mark.parametrize("scope", ["backbone", "model"])
def test_patterns_go_by_the_names_of_the_detector_or_the_tracker(video_recipe, scope, prefix):
    cfg = video_recipe("qdtrack", scope)
    cfg.dfq.quantization.overrides = [{"pattern": f"{prefix}backbone.patch_embed", "keep_fp": True, "reason": "mine"}]
    runner = DFQRunner.from_cfg(cfg)
    runner.prepare()
    runner.pool.add(torch.zeros(1, 3, *SIZE), tag="first")
    runner.stages["calibrate"].run()
    runner.measure()
    reasons = {row.name.removeprefix("detector."): row.reason for row in runner.coverage.rows}
    assert reasons["backbone.patch_embed.projection.weight"] == "mine"
