"""The host's evaluation, more than once in a process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from psaq_mm.engine.evaluation import evaluate
from psaq_mm.errors import UsageError
from tests.conftest import named


def test_each_evaluation_writes_to_its_own_folder(finished, tmp_path):
    described, checkpoint = finished.runner.artifact_paths
    first, second = tmp_path / "first", tmp_path / "second"
    figures = evaluate(Config.fromfile(described), checkpoint, first)
    shutil.rmtree(first)
    assert evaluate(Config.fromfile(described), checkpoint, second) == figures
    assert list(second.glob("*/vis_data/config.py")) and list(second.glob("*/*.log"))
    assert not first.exists()


@pytest.fixture
def boxes(finished, tmp_path) -> tuple[Config, Path]:
    """The artifact without its mask head, since mmdet merges no masks."""
    described, checkpoint = finished.runner.artifact_paths
    cfg, saved = Config.fromfile(described), torch.load(checkpoint, weights_only=True)
    cfg.test_evaluator.metric = ["bbox", "proposal"]
    for key in ("mask_head", "mask_roi_extractor"):
        cfg.model.roi_head[key] = None
    saved["state_dict"] = {key: value for key, value in saved["state_dict"].items() if "mask_head" not in key}
    torch.save(saved, tmp_path / "boxes.pth")
    return cfg, tmp_path / "boxes.pth"


def test_augmented_images_are_tested_as_the_hosts_tool_tests_them(boxes, tmp_path):
    cfg, checkpoint = boxes
    found, plain = (evaluate(cfg, checkpoint, tmp_path / str(tta), tta) for tta in (True, False))
    assert found != plain
    # as in mmdet's tools/test.py --tta
    named(cfg, tmp_path / "theirs")
    *before, last = cfg.test_dataloader.dataset.pipeline
    last.meta_keys = (*last.meta_keys, "flip", "flip_direction")
    flips = [{"type": "RandomFlip", "prob": 1.0}, {"type": "RandomFlip", "prob": 0.0}]
    cfg.test_dataloader.dataset.pipeline = [*before, {"type": "TestTimeAug", "transforms": [flips, [last]]}]
    merging = {"type": "DetTTAModel", "tta_cfg": {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}}
    cfg.model, cfg.load_from = ConfigDict(**merging, module=cfg.model), str(checkpoint)
    assert found == {key: round(float(value), 6) for key, value in Runner.from_cfg(cfg).test().items()}


def test_the_configs_own_augmentation_is_used(boxes, tmp_path):
    cfg, checkpoint = boxes
    cfg.tta_model = {"type": "NoSuchModel"}
    with pytest.raises(UsageError, match="NoSuchModel"):
        evaluate(cfg, checkpoint, tmp_path, tta=True)


def test_masks_cannot_be_merged(finished, tmp_path):
    described, checkpoint = finished.runner.artifact_paths
    with pytest.raises(
        UsageError, match="DetTTAModel cannot evaluate with test-time augmentation .*mmdet's merges boxes, not"
    ):
        evaluate(Config.fromfile(described), checkpoint, tmp_path, tta=True)
