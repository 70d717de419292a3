"""The scenes as a COCO data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mmdet.registry import DATASETS
from PIL import Image
from pycocotools import mask as coco_mask

from psaq_mm.datasets.scenes import CLASSES, draw_scene

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
