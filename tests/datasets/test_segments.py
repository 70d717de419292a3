"""The scenes as a data set for segmentation: a class for every pixel, and what has none is ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from psaq_mm.datasets.scenes import CLASSES, draw_scene
from psaq_mm.datasets.segments import IGNORED, semantic_map

SIZE = 64


@pytest.fixture
def dataset(tmp_path):
    init_default_scope("mmseg")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    options = {"data_root": str(tmp_path), "images": 6, "size": SIZE, "test_mode": True, "pipeline": pipeline}
    return DATASETS.build({"type": "psaq_mm.DemoSegments", **options})


def test_it_has_a_class_more_than_the_scenes(dataset):
    assert dataset.metainfo["classes"] == ("background", *CLASSES)
    assert len(dataset.metainfo["palette"]) == 6 and dataset.ignore_index == IGNORED


def test_images_and_maps_are_those_of_the_scenes(dataset):
    assert len(dataset) == 6
    for index in range(6):
        info, scene = dataset.get_data_info(index), draw_scene((0, 1, index), SIZE)
        assert np.array_equal(np.asarray(Image.open(info["img_path"])), scene.image)
        assert Path(info["img_path"]).name == Path(info["seg_map_path"]).name
        packed = dataset[index]
        labels = packed["data_samples"].gt_sem_seg.data[0].numpy()
        assert np.array_equal(labels, semantic_map(scene))
        assert np.array_equal(packed["inputs"].permute(1, 2, 0).numpy()[..., ::-1], scene.image)


def test_a_pixel_has_the_class_of_its_mask_or_none():
    seen = set()
    for index in range(20):
        scene = draw_scene((7, index), SIZE)
        labels = semantic_map(scene)
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            assert (labels[mask] == label + 1).all()
        rest = ~scene.masks.any(0)
        assert set(np.unique(labels[rest])) <= {0, IGNORED}
        assert np.array_equal(labels == IGNORED, scene.unlabelled)
        seen |= set(np.unique(labels))
    assert seen == {*range(6), IGNORED}
