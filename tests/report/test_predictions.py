"""Comparisons of two models' predictions, from samples as the hosts make them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from psaq_mm.errors import PSAQError
from psaq_mm.report.inputs import Input
from psaq_mm.report.predictions import class_name, compared

META = {"classes": ("sky", "road", "tree"), "palette": None}
PICTURE = Input("street.jpg", np.full((40, 60, 3), 128, np.uint8), None)


def detections(labels, scores):
    boxes = torch.tensor([[5.0, 5.0, 25.0, 30.0]]).repeat(len(labels), 1)
    found = InstanceData(bboxes=boxes, labels=torch.tensor(labels), scores=torch.tensor(scores))
    return DetDataSample(pred_instances=found)


def semantic(classes):
    return SegDataSample(pred_sem_seg=PixelData(data=torch.as_tensor(classes)[None]))


def panoptic(segments):
    return DetDataSample(pred_panoptic_seg=PixelData(sem_seg=torch.as_tensor(segments)[None]))


def test_detections_are_drawn_and_counted():
    found = compared(PICTURE, [detections([0, 1, 1], [0.9, 0.8, 0.7]), detections([1, 2], [0.9, 0.1])], META)
    assert found.columns == ("class", "float", "quantized") and found.generated
    # a score of 0.1 is below the threshold
    assert found.rows == (("road", "2", "1"), ("sky", "1", "0"))
    assert [one.title for one in found.pictures] == ["float", "quantized"]
    assert found.pictures[0].description == "detections of the float model in street.jpg: 2 road, 1 sky"
    assert found.pictures[0].uri != found.pictures[1].uri


def test_of_many_detections_the_best_are_drawn():
    scores = torch.linspace(0.4, 0.9, 30).tolist()
    some = detections([0] * 20, scores[10:])
    found = compared(PICTURE, [detections([0] * 30, scores), some], META)
    assert found.rows == (("sky", "30", "20"),)
    assert found.pictures[0].uri == found.pictures[1].uri
    assert found.remark == "Detections with a score above 0.3, the 15 best of which are drawn."


def test_without_detections_there_are_pictures_and_no_rows():
    found = compared(PICTURE, [detections([0], [0.1])] * 2, META)
    assert found.rows == () and len(found.pictures) == 2 and found.pictures[0].description.endswith("none")


def test_maps_are_coloured_and_measured():
    theirs = np.zeros((40, 60), np.int64)
    theirs[:10] = 2
    ours = theirs.copy()
    ours[:5] = 0
    found = compared(PICTURE, [semantic(theirs), semantic(ours)], META)
    assert found.rows == (("sky", "75.0 %", "87.5 %"), ("tree", "25.0 %", "12.5 %"))
    assert len(found.colours) == 2 and len(set(found.colours)) == 2
    assert [one.title for one in found.pictures] == ["float", "quantized", "12.50 % of pixels differ"]


def test_panoptic_segments_are_shown_by_class():
    segments = np.full((40, 60), 1, np.int64)
    segments[:20] = 3002  # the third instance of class 2
    found = compared(PICTURE, [panoptic(segments)] * 2, META)
    assert {row[0] for row in found.rows} == {"road", "tree"}


def test_scores_are_a_table_with_bars():
    scores = [torch.tensor([0.1, 0.7, 0.2]), torch.tensor([0.05, 0.35, 0.6])]
    found = compared(PICTURE, [DataSample().set_pred_score(one) for one in scores], META)
    assert found.rows == (("road", "70.0 %", "35.0 %"), ("tree", "20.0 %", "60.0 %"), ("sky", "10.0 %", "5.0 %"))
    assert found.shares[0] == pytest.approx((0.7, 0.35))
    assert len(found.pictures) == 1


def test_the_quantized_models_favourite_is_always_shown():
    theirs = torch.arange(10, 0, -1).float().softmax(0)
    ours = theirs.flip(0)
    found = compared(PICTURE, [theirs, ours], {})
    assert [row[0] for row in found.rows] == ["class 0", "class 1", "class 2", "class 3", "class 4", "class 9"]


def test_other_predictions_are_refused():
    with pytest.raises(PSAQError, match="DetDataSample has neither boxes nor class maps nor class scores"):
        compared(PICTURE, [DetDataSample(), DetDataSample()], META)


@pytest.mark.parametrize(("index", "name"), [(1, "road"), (3, "class 3"), (-1, "class -1")])
def test_classes_without_a_name_have_a_number(index, name):
    assert class_name(META, index) == name
    assert class_name({"classes": None}, 1) == "class 1"
