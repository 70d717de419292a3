"""COCO masks as maps of mmseg: every form of a segmentation, classes and background, the size of the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image
from pycocotools import mask as coco_mask

from psaq_mm.datasets.coco_segments import decode_mask
from psaq_mm.errors import UsageError

HEIGHT, WIDTH = 20, 30
BOX = np.zeros((HEIGHT, WIDTH), dtype=bool)
BOX[4:10, 6:18] = True


def compressed(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict:
    """Lengths of runs down the columns; the first is of zeros."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.r_[False, flat, False])).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, flat.size]).tolist()}


def polygon(mask: np.ndarray) -> list[list[float]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    return [[float(value) for value in (left, top, right, top, right, bottom, left, bottom)]]


@pytest.mark.parametrize("encode", [compressed, uncompressed, polygon])
def test_every_form_of_a_mask(encode):
    assert np.array_equal(decode_mask(encode(BOX), HEIGHT, WIDTH), BOX)


@pytest.fixture
def build(tmp_path):
    """A data set of two images, the second without annotations; classes are the argument."""
    init_default_scope("mmseg")
    (tmp_path / "val").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(tmp_path / "val" / name)
    lower = np.zeros_like(BOX)
    lower[8:14, 10:30] = True
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 5, "segmentation": compressed(BOX)},
        {"id": 2, "image_id": 7, "category_id": 3, "segmentation": compressed(lower)},
    ]
    images = [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}]
    categories = [{"id": 3, "name": "debris"}, {"id": 5, "name": "nucleus"}]
    read = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(read))

    def dataset(*classes: str):
        pipeline = [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "scale": (15, 10), "keep_ratio": True},
            {"type": "psaq_mm.LoadCocoSegments"},
            {"type": "PackSegInputs"},
        ]
        options = {"data_root": str(tmp_path), "ann_file": "val.json", "data_prefix": {"img_path": "val"}}
        palette = [(index, 0, 0) for index in range(len(classes))]
        metainfo = {"classes": classes, "palette": palette}
        return DATASETS.build(
            {"type": "psaq_mm.CocoSegments", "metainfo": metainfo, "test_mode": True, "pipeline": pipeline, **options}
        )

    return dataset, lower


def test_maps_have_the_size_of_the_file_and_the_later_mask_on_top(build):
    dataset, lower = build
    found = dataset("background", "nucleus", "debris")
    assert len(found) == 2
    packed = found[0]
    expected = np.where(lower, 2, np.where(BOX, 1, 0))
    assert np.array_equal(packed["data_samples"].gt_sem_seg.data[0].numpy(), expected)
    assert packed["inputs"].shape == (3, 10, 15)
    assert not found[1]["data_samples"].gt_sem_seg.data.any()


def test_a_category_that_is_no_class_is_background(build):
    found = build[0]("background", "nucleus")
    assert np.array_equal(found[0]["data_samples"].gt_sem_seg.data[0].numpy(), BOX)


def test_a_class_that_is_no_category_is_one_line(build):
    with pytest.raises(UsageError, match=r"val\.json has no category 'cell': give metainfo.classes .*debris, nucleus"):
        build[0]("background", "cell")
