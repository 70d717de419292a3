"""Pictures of detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image

from psaq_mm.engine import pictures
from psaq_mm.errors import PSAQError, UsageError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "nuclei" / "mask_rcnn_swin_nano.py"
META = {"classes": ("nucleus",), "palette": [(220, 20, 60)]}


def detection(score):
    found = InstanceData(
        bboxes=torch.tensor([[2.0, 3.0, 8.0, 9.0]]), labels=torch.tensor([0]), scores=torch.tensor([score])
    )
    found.masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    found.masks[0, 3:9, 2:8] = True
    return DetDataSample(pred_instances=found)


def test_boxes_and_masks_grow_with_the_image():
    image, sample = pictures.enlarged(np.zeros((20, 30, 3), np.uint8), detection(0.9), 3)
    found = sample.pred_instances
    assert image.shape == (60, 90, 3)
    assert found.bboxes.tolist() == [[6.0, 9.0, 24.0, 27.0]]
    assert found.masks.shape == (1, 60, 90)
    assert found.masks[0, 9:27, 6:24].all() and found.masks.sum() == 18 * 18


@pytest.mark.parametrize(("score", "drawn"), [(0.9, True), (0.1, False)], ids=["above", "below"])
def test_detections_above_the_threshold_are_drawn(score, drawn):
    image = np.full((20, 30, 3), 128, np.uint8)
    picture = pictures.draw(image, detection(score), META, threshold=0.5)
    assert picture.shape == (480, 720, 3)
    assert bool((picture != 128).any()) == drawn


def test_columns_stand_under_their_titles():
    black, grey = np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 128, np.uint8)
    picture = np.asarray(pictures.side_by_side([[black, grey], [black, grey]], ["float", "quantized"]))
    assert picture.shape == (pictures.TITLE_HEIGHT + 2 * 40 + pictures.GAP, 2 * 60 + pictures.GAP, 3)
    below = picture[pictures.TITLE_HEIGHT :]
    assert (below[:40, :60] == 0).all() and (below[-40:, -60:] == 128).all()
    assert (picture[: pictures.TITLE_HEIGHT] < 128).any()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    init_default_scope("mmdet")
    path = tmp_path_factory.mktemp("pictures") / "random.pth"
    model = MODELS.build(Config.fromfile(CONFIG).model)
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": META}}, path)
    return path


def test_the_packages_own_detector_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, checkpoint = Path("demo/mask_rcnn_swin_nano"), Path("configs/demo/mask_rcnn_swin_nano.pth")
    model = pictures.open_detector(config, checkpoint, "cpu")
    assert len(model.dataset_meta["classes"]) == 5


def test_every_model_is_a_column_and_every_image_a_row(checkpoint, tmp_path):
    Image.new("RGB", (96, 64), "white").save(tmp_path / "image.png")
    models = [(title, CONFIG, checkpoint) for title in ("one", "two")]
    picture = pictures.compare(models, [tmp_path / "image.png"] * 2, threshold=0.99, device="cpu")
    panel = 64 * 8, 96 * 8
    assert picture.size == (2 * panel[1] + pictures.GAP, pictures.TITLE_HEIGHT + 2 * panel[0] + pictures.GAP)


@pytest.mark.parametrize("missing", ["config", "checkpoint", "image"])
def test_what_is_missing_is_named(missing, checkpoint, tmp_path):
    Image.new("RGB", (96, 64)).save(tmp_path / "image.png")
    paths = {"config": CONFIG, "checkpoint": checkpoint, "image": tmp_path / "image.png", missing: tmp_path / "nowhere"}
    with pytest.raises(PSAQError if missing == "checkpoint" else UsageError, match="nowhere"):
        pictures.compare([("one", paths["config"], paths["checkpoint"])], [paths["image"]], 0.5, "cpu")
