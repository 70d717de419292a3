"""Pictures of one object as a data set for classification."""

from __future__ import annotations

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from PIL import Image

from psaq_mm.datasets.scenes import CLASSES, draw_object

SIZE = 32


@pytest.fixture
def dataset(tmp_path):
    init_default_scope("mmpretrain")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}]
    options = {"data_root": str(tmp_path), "images": 40, "size": SIZE, "test_mode": True, "pipeline": pipeline}
    return DATASETS.build({"type": "psaq_mm.DemoObjects", **options})


def test_images_and_classes_are_those_that_were_drawn(dataset):
    assert len(dataset) == 40 and tuple(dataset.metainfo["classes"]) == CLASSES
    for index in range(40):
        info, (image, label) = dataset.get_data_info(index), draw_object((0, 1, index), SIZE)
        assert info["gt_label"] == label and np.array_equal(np.asarray(Image.open(info["img_path"])), image)
    assert int(dataset[3]["data_samples"].gt_label) == dataset.get_data_info(3)["gt_label"]


def test_every_class_is_drawn_about_as_often(dataset):
    assert np.bincount(dataset.get_gt_labels(), minlength=5).min() >= 3


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_seed_is_all_that_counts(size):
    (first, label), (again, same) = draw_object((3, 1), size), draw_object((3, 1), size)
    assert first.shape == (size, size, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and label == same
    assert not np.array_equal(draw_object((3, 2), size)[0], first)
