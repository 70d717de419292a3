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

from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.visualization import detections as pictures

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
    (picture,) = pictures.compare(models, [tmp_path / "image.png"] * 2, threshold=0.99, device="cpu")
    panel = 64 * 8, 96 * 8
    assert picture.size == (2 * panel[1] + pictures.GAP, pictures.TITLE_HEIGHT + 2 * panel[0] + pictures.GAP)


@pytest.mark.parametrize("missing", ["config", "checkpoint", "image"])
def test_what_is_missing_is_named(missing, checkpoint, tmp_path):
    Image.new("RGB", (96, 64)).save(tmp_path / "image.png")
    paths = {"config": CONFIG, "checkpoint": checkpoint, "image": tmp_path / "image.png", missing: tmp_path / "nowhere"}
    with pytest.raises(PSAQError if missing == "checkpoint" else UsageError, match="nowhere"):
        list(pictures.compare([("one", paths["config"], paths["checkpoint"])], [paths["image"]], 0.5, "cpu"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_are_shown_as_they_were_held(checkpoint, tmp_path, orientation):
    """EXIF says how to turn what is stored; the hosts' pipelines do it, so the masks are of the turned image."""
    image, exif = Image.new("RGB", (96, 64)), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.jpg", exif=exif)
    (picture,) = pictures.compare([("one", CONFIG, checkpoint)], [tmp_path / "photo.jpg"], threshold=0.99, device="cpu")
    width, height = (64, 96) if orientation in (6, 8) else (96, 64)
    assert picture.size == (width * 8, height * 8 + pictures.TITLE_HEIGHT)


def test_an_orientation_that_a_pipeline_ignores_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64)).save(tmp_path / "photo.jpg", exif=exif)
    image, sample = pictures.read_image(tmp_path / "photo.jpg"), detection(0.9)
    assert image.shape == (96, 64, 3)
    sample.set_metainfo({"ori_shape": (64, 96)})
    assert pictures.as_seen(tmp_path / "photo.jpg", image, sample).shape == (64, 96, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_images_of_other_modes_are_shown(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new(mode, (30, 20)).save(path)
    image = pictures.read_image(path)
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8


def test_many_images_are_several_pages(checkpoint, tmp_path):
    Image.new("RGB", (96, 64)).save(tmp_path / "image.png")
    pages = list(pictures.compare([("one", CONFIG, checkpoint)], [tmp_path / "image.png"] * 18, 0.99, "cpu"))
    # 512 pixels an image: seven rows and their gaps fit into 4096
    assert [round((page.height - pictures.TITLE_HEIGHT) / 520) for page in pages] == [7, 7, 4]
    assert all(page.height <= pictures.PAGE_HEIGHT + pictures.TITLE_HEIGHT for page in pages)
    paths = pictures.page_paths(Path("folder/show.png"))
    assert [next(paths).name for _ in pages] == ["show.png", "show-2.png", "show-3.png"]


def test_large_photographs_are_shrunk():
    sample = detection(0.9)
    sample.pred_instances.masks = torch.zeros(1, 3000, 4000, dtype=torch.bool)
    picture = pictures.draw(np.zeros((3000, 4000, 3), np.uint8), sample, META, threshold=0.5)
    assert picture.shape == (960, 1280, 3)
