"""The outputs of mmdet's detectors other than those with proposals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..hosts import kinds_of

# BoxInst, CondInst, YOLACT, SOLO
_MASKS = "mmdet.SingleStageInstanceSegmentor"
# Whose forward is the head's on the neck's maps; DETRs and Mask2Former inherit from it, but replace it.
_ONE_STAGE = "mmdet.models.detectors.single_stage"


def tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors in nested sequences and mappings, in their order; None and other values are skipped."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from tensors(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for one in outputs:
            yield from tensors(one)


def is_one_stage(model: Any) -> bool:
    """Whether a model is a detector of mmdet whose outputs are its head's on the neck's maps."""
    return getattr(getattr(type(model), "_forward", None), "__module__", None) == _ONE_STAGE


def one_stage_logits(model: Any, images: Tensor) -> list[Tensor]:
    """The maps of a one-stage detector's head: class scores of every level, then box deltas and what else it has."""
    return list(tensors(model.bbox_head(model.extract_feat(images))))


def detector_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """The outputs of any detector of mmdet by its own forward without post-processing, such as those of a DETR."""
    return list(tensors(model(images, samples_of(images), mode="tensor")))


def predicts_only(model: Any) -> bool:
    """Whether a detector's own forward asks for annotations, so that only its prediction runs all of its heads."""
    kinds = kinds_of(model)
    # those without boxes, such as SOLO, run as they are
    return "mmdet.SparseRCNN" in kinds or _MASKS in kinds and getattr(model, "bbox_head", None) is not None


def prediction_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """The results of a detector of mmdet by its prediction, whatever their scores; their number differs by image."""
    with any_score(model):
        results = model.predict(images, samples_of(images), rescale=False)
    return list(tensors([list(one.pred_instances.values()) for one in results]))


@contextmanager
def any_score(model: Any) -> Iterator[None]:
    """Set the thresholds of scores to 0 inside the block, so that heads behind the first results run too."""
    found = [module.test_cfg for module in model.modules() if isinstance(getattr(module, "test_cfg", None), dict)]
    before = [(one, one["score_thr"]) for one in found if "score_thr" in one]
    try:
        for one, _ in before:
            one["score_thr"] = 0.0
        yield
    finally:
        for one, value in before:
            one["score_thr"] = value


def samples_of(images: Tensor) -> list[Any]:
    """mmdet's data sample of each image of a batch (:func:`metas_of`)."""
    from mmdet.structures import DetDataSample

    return [DetDataSample(metainfo=meta) for meta in metas_of(images)]


def metas_of(images: Tensor) -> list[dict[str, Any]]:
    """mmdet's description of each image of a batch, neither resized nor padded."""
    size = tuple(images.shape[-2:])
    meta = {
        "batch_input_shape": size,
        "pad_shape": size,
        "img_shape": size,
        "ori_shape": size,
        "scale_factor": (1.0, 1.0),
    }
    return [dict(meta) for _ in range(len(images))]
