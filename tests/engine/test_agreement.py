"""The agreement of a quantized model with the float one, for each kind of prediction."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from rich.console import Console
from torch import nn

from psaq_mm.engine.hooks import AgreementHook, agreement, comparisons
from psaq_mm.engine.hooks.agreement import PredictionCache
from psaq_mm.engine.job import Job
from psaq_mm.engine.results import main_metrics
from psaq_mm.errors import UsageError

Sample = SimpleNamespace
BEFORE = {"accuracy/top1": 50.0}
CAT, DOG = 0, 1
# Corners. NEAR and HALF overlap LEFT with an IoU of 8/12 and 5/10; RIGHT does not overlap it.
LEFT, NEAR, HALF, RIGHT = (0, 0, 10, 10), (2, 0, 12, 10), (0, 0, 10, 5), (50, 0, 60, 10)


@pytest.fixture(autouse=True)
def cache(monkeypatch) -> PredictionCache:
    """An empty cache for each test."""
    empty = PredictionCache()
    monkeypatch.setattr(agreement, "CACHE", empty)
    return empty


class Teacher(nn.Linear):
    """A model that answers as it is told."""

    def __init__(self, step, seed: int = 0, test_cfg: dict | None = None) -> None:
        torch.manual_seed(seed)
        super().__init__(2, 2)
        self.test_step, self.test_cfg = step, test_cfg


def scores(*rows: list[float]) -> list[Sample]:
    return [Sample(pred_score=torch.tensor(row)) for row in rows]


def class_map(*rows: list[int]) -> Sample:
    return Sample(pred_sem_seg=Sample(data=torch.tensor([rows])))


def detections(*found: tuple[tuple[int, ...], int, float], **more: torch.Tensor) -> Sample:
    boxes, labels, confidence = zip(*found, strict=True) if found else ((), (), ())
    instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(confidence),
        **more,
    )
    return Sample(pred_instances=instances)


def runner(teacher: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(teacher=teacher, bare_model=object)


def epoch(hook: AgreementHook, run: SimpleNamespace, *batches: list[Sample]) -> dict[str, float]:
    metrics = dict(BEFORE)
    hook.before_test_epoch(run)
    for index, outputs in enumerate(batches):
        hook.after_test_iter(run, index, {"inputs": index}, outputs)
    hook.after_test_epoch(run, metrics)
    return metrics


def compared(theirs: list[list[Sample]], ours: list[list[Sample]]) -> dict[str, float]:
    """The metrics that the hook adds, for batches of predictions."""
    metrics = epoch(AgreementHook(), runner(Teacher(lambda batch: theirs[batch["inputs"]])), *ours)
    return {key: value for key, value in metrics.items() if key not in BEFORE}


def test_scores_agreement_and_divergence_are_means_over_all_images():
    theirs = [scores([0.5, 0.5, 0.0], [0.8, 0.1, 0.1]), scores([0.2, 0.2, 0.6])]
    ours = [scores([0.6, 0.3, 0.1], [0.1, 0.8, 0.1]), scores([0.2, 0.2, 0.6])]
    first = 0.5 * np.log(0.5 / 0.6) + 0.5 * np.log(0.5 / 0.3)
    second = 0.8 * np.log(8) + 0.1 * np.log(1 / 8)
    assert compared(theirs, ours) == {
        "float/agreement": pytest.approx(200 / 3),
        # float32 scores
        "float/kl": pytest.approx((first + second) / 3, rel=1e-6),
    }


def test_maps_agreement_is_a_mean_over_all_pixels_of_images_of_any_size():
    theirs = [[class_map([0, 1, 2], [0, 1, 2]), class_map([7])], [class_map([300, 5])]]
    ours = [[class_map([0, 1, 1], [0, 2, 2]), class_map([7])], [class_map([300 - 256, 5])]]
    # 4 of 6, 1 of 1 and 1 of 2 pixels: classes above 255 are not cut to a byte
    assert compared(theirs, ours) == {"float/agreement": pytest.approx(100 * 6 / 9)}


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ([(LEFT, CAT, 0.9), (RIGHT, DOG, 0.8)], [(NEAR, CAT, 0.5), (RIGHT, DOG, 0.4)], 100),
        ([(LEFT, CAT, 0.9), (RIGHT, DOG, 0.8)], [(LEFT, CAT, 0.9)], 100 * 2 / 3),
        ([(LEFT, CAT, 0.9)], [(LEFT, CAT, 0.9), (NEAR, CAT, 0.8)], 100 * 2 / 3),
        ([(LEFT, CAT, 0.9)], [(LEFT, DOG, 0.9)], 0),
        ([(LEFT, CAT, 0.9)], [(HALF, CAT, 0.9)], 100),
        ([(LEFT, CAT, 0.9)], [((0, 0, 10, 4.9), CAT, 0.9)], 0),
        ([(LEFT, CAT, 0.9), (RIGHT, CAT, 0.29)], [(LEFT, CAT, 0.31), (RIGHT, CAT, 0.2)], 100),
        ([(HALF, CAT, 0.9), (LEFT, CAT, 0.9)], [(HALF, CAT, 0.4), (LEFT, CAT, 0.8)], 100),
        # The surer one of ours chooses first: HALF takes LEFT, and LEFT what is left.
        ([(LEFT, CAT, 0.9), (NEAR, CAT, 0.9)], [(LEFT, CAT, 0.4), (HALF, CAT, 0.8)], 100),
        # LEFT takes NEAR, and NEAR has no other; the other way round both would have one.
        ([(NEAR, CAT, 0.9), (HALF, CAT, 0.9)], [(NEAR, CAT, 0.4), (LEFT, CAT, 0.8)], 50),
        ([((3, 3, 3, 3), CAT, 0.9), (LEFT, CAT, 0.9)], [((3, 3, 3, 3), CAT, 0.9), (LEFT, CAT, 0.8)], 50),
        ([(LEFT, CAT, 0.9)], [], 0),
        ([], [(LEFT, CAT, 0.9)], 0),
        ([], [], 100),
        ([(LEFT, CAT, 0.1)], [], 100),
    ],
    ids=[
        *("all", "one-missing", "one-to-one", "label", "least-overlap", "too-little-overlap", "scores"),
        *("largest-overlap", "surest-first", "taken", "no-area"),
        *("ours-finds-nothing", "theirs-finds-nothing", "nothing", "nothing-sure"),
    ],
)
def test_boxes_agreement_is_f1_of_matches(theirs, ours, expected):
    assert compared([[detections(*theirs)]], [[detections(*ours)]]) == {"float/agreement": pytest.approx(expected)}


def test_boxes_are_counted_over_all_images():
    theirs = [[detections((LEFT, CAT, 0.9)), detections()], [detections((LEFT, CAT, 0.9))]]
    ours = [[detections((LEFT, CAT, 0.9)), detections((LEFT, CAT, 0.9))], [detections((LEFT, CAT, 0.9))]]
    # two matches of two and three detections; the mean over images would be 2/3
    assert compared(theirs, ours) == {"float/agreement": pytest.approx(100 * 4 / 5)}


def test_boxes_are_those_of_masks_where_a_detector_has_none():
    masks = torch.zeros(3, 20, 20, dtype=torch.bool)
    masks[0, 2:8, 2:8], masks[1, 12:, 12:] = True, True  # the third is empty
    none = (0, 0, 0, 0)
    found = detections((none, CAT, 0.9), (none, CAT, 0.8), (none, CAT, 0.7), masks=masks)
    assert compared([[found]], [[found]]) == {"float/agreement": pytest.approx(100 * 4 / 6)}


KINDS = {
    "scores": (scores([0.9, 0.1])[0], scores([0.6, 0.4])[0]),
    "maps": (class_map([0, 1, 2]), class_map([0, 1, 1])),
    "boxes": (detections((LEFT, CAT, 0.9)), detections((NEAR, CAT, 0.9), (RIGHT, DOG, 0.9))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_sees_an_image_once(kind):
    theirs, ours = KINDS[kind]
    seen = []

    def step(batch):
        seen.append(batch["inputs"])
        return [theirs]

    batches = [[Sample(**vars(ours), img_path=f"{index}.png")] for index in range(2)]
    teachers = [Teacher(step, seed=1), Teacher(step, seed=1), Teacher(step, seed=2), Teacher(step, 2, {"score_thr": 0})]
    results = [epoch(AgreementHook(), runner(teacher), *batches) for teacher in teachers]
    # three times two images: the second run's teacher has the first one's weights and settings
    assert seen == [0, 1] * 3
    assert all(one == results[0] for one in results) and "float/agreement" in results[0]


def test_an_image_seen_at_another_size_is_predicted_again():
    seen = []
    teacher = Teacher(lambda batch: seen.append(batch["inputs"]) or [class_map([0, 1])])
    for size in ((64, 64), (32, 32), (64, 64)):
        sample = Sample(**vars(class_map([0, 1])), img_path="a.png", img_shape=size)
        epoch(AgreementHook(), runner(teacher), [sample])
    assert len(seen) == 2


def test_the_float_model_is_not_compared_with_itself():
    teacher = Teacher(pytest.fail)
    run = SimpleNamespace(teacher=teacher, bare_model=lambda: teacher)
    assert epoch(AgreementHook(), run, scores([1.0, 0.0])) == BEFORE


PANOPTIC = {"pred_panoptic_seg": Sample()}


@pytest.mark.parametrize(
    "sample",
    [
        Sample(pred_depth_map=torch.zeros(2, 2)),
        Sample(**PANOPTIC, **vars(class_map([0]))),
        Sample(**PANOPTIC, **vars(detections())),
        Sample(pred_instances=InstanceData(keypoints=torch.zeros(1, 2))),
    ],
    ids=["depth", "panoptic-maps", "panoptic-boxes", "keypoints"],
)
def test_other_predictions_are_refused(sample):
    with pytest.raises(UsageError, match="compares classifiers, semantic segmentors and detectors: take it out of"):
        epoch(AgreementHook(), runner(Teacher(pytest.fail)), [sample])


def test_the_cache_holds_one_teacher_and_a_limited_number_of_bytes():
    first, second = ((torch.full((4,), value), torch.zeros(2, dtype=torch.int32)) for value in (0.0, 1.0))
    cache = PredictionCache(limit=3 * (16 + 8))
    cache.add("first", ["a.png", "b.png"], [first, second])
    cache.add("first", ["c.png", "d.png"], [first, second])
    (found, other) = cache.find("first", ["b.png", "c.png"])
    assert torch.equal(found[0], second[0]) and torch.equal(other[0], first[0])
    assert cache.find("first", ["c.png", "d.png"]) is None
    cache.add("second", ["a.png", None], [first, second])
    assert cache.find("first", ["a.png"]) is None and cache.find("second", ["b.png"]) is None
    assert torch.equal(cache.find("second", ["a.png"])[0][0], first[0]) and cache.find("second", [None]) is None


def test_what_is_kept_is_small_and_no_view_of_the_batch(cache):
    maps = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    samples = [Sample(pred_sem_seg=Sample(data=one), img_path=f"{index}.png") for index, one in enumerate(maps)]
    epoch(AgreementHook(), runner(Teacher(lambda batch: samples)), samples)
    ((kept,),) = cache.find(cache.teacher, ["0.png "])
    assert kept.dtype == torch.uint8 and kept.untyped_storage().nbytes() == 64


def test_a_detectors_record_has_it_beside_ap(recipe, monkeypatch):
    # Random weights are sure of nothing.
    monkeypatch.setattr(comparisons, "MIN_SCORE", 0.0)
    hooks = {"custom_hooks": [{"type": "psaq_mm.AgreementHook"}], "dfq.distill.cycles": 0}
    job = Job(recipe(hooks), Console(quiet=True))
    rows = job.run().rows
    assert "float/agreement" not in rows[0].metrics and "float/kl" not in rows[1].metrics
    assert 0 < rows[1].metrics["float/agreement"] < 100
    assert main_metrics(rows) == ["coco/bbox_mAP", "coco/segm_mAP", "float/agreement"]
    assert "custom_hooks" not in Config.fromfile(job.runner.artifact_paths[0])
