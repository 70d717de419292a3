"""The outputs of mmdet's two-stage detectors, and the boxes on which their heads run."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ..hosts import kinds_of, modules_of
from .detectors import metas_of, tensors

CONFIDENT, FEW = 0.05, 5
# Their methods take these arguments; subclasses that replace them need more.
_USUAL = ("mmdet.models.roi_heads.standard_roi_head", "mmdet.models.roi_heads.cascade_roi_head")
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@dataclass(frozen=True)
class Boxes:
    """The boxes on which the heads of a two-stage detector run, each ``(n, 5)``: image index, x1, y1, x2, y2.

    Attributes:
        stages: Those of each box head; one if the detector is no cascade.
        masks: Those of the mask heads.
    """

    stages: list[Tensor]
    masks: Tensor


class TeachersBoxes:
    """Finds the boxes of the float detector on a batch of images, once for both networks.

    Args:
        teacher: The FP detector.
        proposals: How many of its best proposals of each image are used.
    """

    def __init__(self, teacher: Any, proposals: int = 64) -> None:
        self.teacher, self.proposals = teacher, proposals
        self._images: Tensor | None = None
        self._boxes = Boxes([], torch.empty(0, 5))

    @torch.no_grad()
    def boxes(self, images: Tensor, features: Sequence[Tensor] | None = None) -> Boxes:
        """The teacher's boxes on these images.

        Args:
            images: ``(images, channels, H, W)``.
            features: The outputs of its neck for them, where they are known.
        """
        if self._images is not images:
            features = self.teacher.extract_feat(images) if features is None else features
            self._images, self._boxes = images, self._found(features, images)
        return self._boxes

    def _found(self, features: Sequence[Tensor], images: Tensor) -> Boxes:
        proposals = proposals_of(self.teacher, features, images)
        return Boxes([as_rois([one.bboxes[: self.proposals] for one in proposals])], torch.empty(0, 5))


class DetectorLogits(TeachersBoxes):
    """Class logits of a two-stage detector of mmdet: the proposal head's, and the box head's on given proposals.

    Both networks compute logits on the teacher's proposals, taken without gradient: logits on the student's own would
    be those of other boxes and could not be compared.

    Args:
        teacher: The FP detector.
        proposals: How many of its best proposals of each image are used.

    Raises:
        UsageError: The model is no two-stage detector.
    """

    def __init__(self, teacher: Any, proposals: int = 64) -> None:
        if not has_usual_heads(teacher):
            raise UsageError(
                f"{type(teacher).__name__} is no two-stage detector, one-stage detector, segmentor or classifier whose "
                "logits can be compared: compare on 'backbone' or 'neck', not 'logits', and use scope 'backbone'"
            )
        super().__init__(teacher, proposals)

    def __call__(self, model: Any, images: Tensor) -> list[Tensor]:
        """Objectness maps of every level, then ``(images * proposals, classes + 1)``."""
        features = model.extract_feat(images)
        objectness = list(model.rpn_head(features)[0])
        # The teacher's own features are reused: in another pass, taps would collect its tokens a second time.
        (rois,) = self.boxes(images, features if model is self.teacher else None).stages
        heads = model.roi_head
        stages = [(stage,) for stage in range(len(heads.bbox_head))] if is_cascade(heads) else [()]
        return objectness + [heads._bbox_forward(*stage, features, rois)["cls_score"] for stage in stages]


class CalibrationOutputs(TeachersBoxes):
    """All outputs of a two-stage detector of mmdet, each head on the boxes that it gets in the float detector.

    The first box head gets the teacher's proposals, each further head of a cascade the boxes that the teacher has
    refined so far, and the mask heads the teacher's best final boxes. Generated images may have few confident boxes;
    the best ones are then taken whatever their scores, with a warning.

    Args:
        teacher: The FP detector, see :func:`has_usual_heads`.
        proposals: How many of its best proposals of each image are used.
        masks: How many of its final boxes; None for a quarter of ``proposals``.
    """

    def __init__(self, teacher: Any, proposals: int = 64, masks: int | None = None) -> None:
        super().__init__(teacher, proposals)
        self.masks = proposals // 4 if masks is None else masks

    def __call__(self, model: Any, images: Tensor) -> list[Tensor]:
        """The outputs of the proposal head, the box heads and the mask heads."""
        features = model.extract_feat(images)
        outputs = list(tensors(model.rpn_head(features)))
        # The teacher's own features are reused: in another pass, taps would collect its tokens a second time.
        boxes = self.boxes(images, features if model is self.teacher else None)
        heads, cascade = model.roi_head, is_cascade(model.roi_head)
        if getattr(model, "with_semantic_head", False):
            outputs.extend(tensors(model.semantic_head(features)))
        for stage, rois in enumerate(boxes.stages):
            found = heads._bbox_forward(*([stage] if cascade else []), features, rois)
            outputs.extend(tensors([found["cls_score"], found["bbox_pred"]]))
            if heads.with_mask and len(boxes.masks):
                found = heads._mask_forward(*([stage] if cascade else []), features, boxes.masks)
                outputs.extend(tensors(found["mask_preds"]))
        return outputs

    def _found(self, features: Sequence[Tensor], images: Tensor) -> Boxes:
        heads, best = self.teacher.roi_head, self.masks
        extractors = heads.bbox_roi_extractor
        stages: list[Tensor] = []
        # The extractors show which boxes each stage gets.
        handles = [
            one.register_forward_pre_hook(lambda _, args: stages.append(args[1])) for one in modules_of(extractors)
        ]
        options = copy.deepcopy(heads.test_cfg)
        options.update(score_thr=0.0, max_per_img=best)
        found = proposals_of(self.teacher, features, images)
        try:
            final = heads.predict_bbox(features, metas_of(images), [one[: self.proposals] for one in found], options)
        finally:
            for handle in handles:
                handle.remove()
        if heads.with_mask:
            self._warn(sum(int((one.scores > CONFIDENT).sum()) for one in final) / len(final), best)
        masks = as_rois([one.bboxes for one in final])
        return Boxes(stages, masks if len(masks) else stages[-1][::4])

    def _warn(self, confident: float, best: int) -> None:
        if confident < FEW and self.teacher not in _warned:
            from mmengine.logging import print_log

            _warned.add(self.teacher)
            print_log(
                f"the float detector finds {confident:.1f} confident boxes (score above {CONFIDENT}) per generated "
                f"image: the mask head is calibrated on the {best} best boxes whatever their scores",
                "current",
                logging.WARNING,
            )


def is_cascade(heads: Any) -> bool:
    """Whether RoI heads have several stages."""
    return isinstance(heads.bbox_head, nn.ModuleList)


def has_usual_heads(teacher: Any) -> bool:
    """Whether a detector has mmdet's usual proposal head, and box and mask heads that run as the standard ones."""
    rpn, heads = getattr(teacher, "rpn_head", None), getattr(teacher, "roi_head", None)
    usual = all(
        getattr(getattr(type(heads), name, None), "__module__", None) in _USUAL
        for name in ("predict_bbox", "_bbox_forward", "_mask_forward")
    )
    usual = usual and bool(getattr(heads, "test_cfg", None))
    return usual and rpn is not None and "mmdet.RPNHead" in kinds_of(rpn)


def proposals_of(teacher: Any, features: Sequence[Tensor], images: Tensor) -> list[Any]:
    """The proposals of each image, best first, as mmdet's instances."""
    outputs = teacher.rpn_head(features)
    found: list[Any] = teacher.rpn_head.predict_by_feat(*outputs, batch_img_metas=metas_of(images), rescale=False)
    return found


def as_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes ``(n, 4)`` of each image as ``(sum of n, 5)``, with the image's index first."""
    return torch.cat([torch.cat([box.new_full((len(box), 1), i), box], 1) for i, box in enumerate(boxes)])
