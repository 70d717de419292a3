"""The scenes as a COCO data set: made on first use, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from mmdet.registry import DATASETS
from PIL import Image
from pycocotools import mask as coco_mask

from psaq_mm.datasets import demo
from psaq_mm.datasets.scenes import CLASSES, draw_scene
from psaq_mm.errors import UsageError
from tests.conftest import ROOT

SIZE = 48


def build(folder: Path, **options):
    described = {"data_root": str(folder), "images": 4, "size": SIZE, "test_mode": True, "pipeline": [], **options}
    return DATASETS.build({"type": "psaq_mm.DemoScenes", **described})


def test_it_builds_by_mmdets_registry_and_agrees_with_the_scenes(tmp_path):
    dataset = build(tmp_path)
    assert len(dataset) == 4 and dataset.metainfo["classes"] == CLASSES
    for index in range(4):
        info, scene = dataset.get_data_info(index), draw_scene((0, 1, index), SIZE)
        assert np.array_equal(np.asarray(Image.open(info["img_path"])), scene.image)
        assert (info["height"], info["width"]) == (SIZE, SIZE)
        assert [instance["bbox_label"] for instance in info["instances"]] == scene.labels.tolist()
        for instance, mask in zip(info["instances"], scene.masks, strict=True):
            assert np.array_equal(coco_mask.decode(instance["mask"]).astype(bool), mask)
            rows, columns = np.nonzero(mask)
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert instance["bbox"] == corners and instance["ignore_flag"] == 0


def test_annotations_are_valid_coco(tmp_path):
    build(tmp_path)
    records = json.loads((tmp_path / "val.json").read_text())
    assert records["info"] == {"seed": 0, "size": SIZE}
    ids = [annotation["id"] for annotation in records["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for annotation in records["annotations"]:
        assert annotation["area"] == coco_mask.area(annotation["segmentation"])
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()


def drawings(monkeypatch) -> list:
    seen, draw = [], demo.draw_scene
    monkeypatch.setattr(demo, "draw_scene", lambda *args: (seen.append(args), draw(*args))[1])
    return seen


def test_it_is_drawn_once(tmp_path, monkeypatch):
    seen = drawings(monkeypatch)
    build(tmp_path)
    build(tmp_path)
    assert len(seen) == 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 64}, {"images": 3}], ids=["seed", "size", "images"])
def test_it_is_drawn_anew_where_something_differs(tmp_path, change):
    build(tmp_path)
    before = (tmp_path / "val" / "000000.png").read_bytes()
    dataset = build(tmp_path, **change)
    assert len(dataset) == change.get("images", 4)
    assert len(list((tmp_path / "val").iterdir())) == len(dataset)
    assert ((tmp_path / "val" / "000000.png").read_bytes() == before) == ("images" in change)
    assert sorted(os.listdir(tmp_path)) == ["val", "val.json"]


COCO = json.dumps({"info": {"year": 2017}, "images": [], "annotations": []})


@pytest.mark.parametrize("content", ["{", "[]", "{}", COCO], ids=["cut", "list", "empty", "coco"])
def test_another_data_set_is_not_overwritten(tmp_path, content):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "theirs.png").touch()
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(UsageError, match="val.json was not made by DemoScenes: choose another data_root"):
        build(tmp_path)
    assert (tmp_path / "val" / "theirs.png").exists() and (tmp_path / "val.json").read_text() == content


def test_pictures_of_unknown_origin_are_not_overwritten(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "theirs.png").touch()
    with pytest.raises(UsageError, match="val has no val.json beside it and may be yours: delete it or choose"):
        build(tmp_path)
    assert sorted(os.listdir(tmp_path / "val")) == ["theirs.png"]


def test_pictures_that_are_gone_are_drawn_anew(tmp_path):
    build(tmp_path)
    for path in (tmp_path / "val").iterdir():
        path.unlink()
    (tmp_path / "val").rmdir()
    assert Path(build(tmp_path).get_data_info(0)["img_path"]).exists()


@pytest.mark.parametrize("before", [False, True], ids=["first-time", "over-an-older-one"])
def test_a_stop_between_annotations_and_pictures_is_mended(tmp_path, monkeypatch, before):
    if before:
        build(tmp_path, seed=5)

    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stops)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    monkeypatch.undo()
    assert Path(build(tmp_path).get_data_info(0)["img_path"]).exists()


def test_splits_share_no_scene(tmp_path):
    train, val = build(tmp_path, split="train", images=8), build(tmp_path, split="val", images=8)
    pictures = [
        {Path(dataset.get_data_info(index)["img_path"]).read_bytes() for index in range(8)} for dataset in (train, val)
    ]
    assert len(pictures[0]) == len(pictures[1]) == 8 and not pictures[0] & pictures[1]


def test_an_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="splits train, val, not 'test'"):
        build(tmp_path, split="test")


@pytest.mark.parametrize("before", [False, True], ids=["first-time", "over-an-older-one"])
def test_a_stopped_drawing_leaves_nothing_half_done(tmp_path, monkeypatch, before):
    if before:
        build(tmp_path, seed=5)
    draw, calls = demo.draw_scene, []

    def stops(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(demo, "draw_scene", stops)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert sorted(os.listdir(tmp_path)) == (["val", "val.json"] if before else [])
    monkeypatch.undo()
    if before:
        assert json.loads((tmp_path / "val.json").read_text())["info"]["seed"] == 5
    assert len(build(tmp_path)) == 4


def test_the_real_images_of_the_demo_are_not_the_evaluations():
    """The recipe's arms with real images take training scenes from a folder of their own."""
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / "configs" / "demo" / "mask_rcnn_swin_nano_w8a8.py")
    assert cfg.real_images.split == "train" and cfg.test_dataloader.dataset.split == "val"
    assert cfg.real_images.data_root != cfg.test_dataloader.dataset.data_root
