"""Models for video through the whole pipeline: the shrunken recipe with another model and no test set."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from psaq_mm.engine import DFQRunner
from psaq_mm.models import without_downloads
from psaq_mm.models.checkpoint import load_weights, read_checkpoint
from psaq_mm.quantization import quantizers
from tests.conftest import random_weights
from tests.models.test_trackers import PREPROCESSOR, VIDEO, video

NO_TEST = dict.fromkeys(("test_dataloader", "test_evaluator", "test_cfg"))


@pytest.mark.parametrize("scope", ["backbone", "model"])
@pytest.mark.parametrize("kind", ["mask2former", "qdtrack"])
def test_a_whole_run_and_a_video_for_its_artifact(recipe, kind, scope, tmp_path):
    cfg = recipe({**NO_TEST, "dfq.quantization.scope": scope})
    cfg.model = ConfigDict({**copy.deepcopy(VIDEO[kind]), "data_preprocessor": PREPROCESSOR})
    cfg.load_from = str(tmp_path / "float.pth")
    init_default_scope("mmdet")
    torch.save({"state_dict": random_weights(MODELS.build(without_downloads(cfg.model))).state_dict()}, cfg.load_from)
    runner = DFQRunner.from_cfg(cfg)
    runner.train()
    described, checkpoint = runner.artifact_paths
    assert runner.coverage.quantized == sum(1 for _ in quantizers(runner.student)) > 40
    init_default_scope("mmdet")
    model = MODELS.build(Config.fromfile(described).model).eval()
    load_weights(model, read_checkpoint(checkpoint)["state_dict"], str(checkpoint))
    frames = model.test_step(video())[0].video_data_samples
    assert all(len(one.pred_track_instances.scores) > 0 for one in frames)
