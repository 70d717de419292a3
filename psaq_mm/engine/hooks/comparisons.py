"""How predictions of a quantized model are compared with the float model's, one class for each kind of prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from ...errors import UsageError

# Detections of a lower score are left out: detectors give hundreds, nearly all of background.
MIN_SCORE = 0.3
# The least overlap of two boxes that are one detection, as in AP50.
MIN_IOU = 0.5

# What is kept of an image's prediction, on the CPU.
Stored = tuple[Tensor, ...]


class Comparison(ABC):
    """Compares one kind of prediction.

    Sums over images are three numbers, which processes can add up; the first is the number of images.
    """

    @abstractmethod
    def fits(self, sample: Any) -> bool:
        """Whether a data sample has predictions of this kind."""

    @abstractmethod
    def stored(self, sample: Any) -> Stored:
        """What the comparison needs of a data sample, on the CPU."""

    @abstractmethod
    def sums(self, theirs: Sequence[Stored], ours: Sequence[Stored]) -> Tensor:
        """Sums over the images of a batch, ``(3,)`` in float64.

        Args:
            theirs: The float model's predictions, one for each image.
            ours: The evaluated model's predictions of the same images.
        """

    @abstractmethod
    def metrics(self, sums: Tensor) -> dict[str, float]:
        """The metrics of the sums over all images."""


class ScoreComparison(Comparison):
    """Class scores of classifiers.

    ::

        agreement = 100 / n * sum_i [argmax p_i = argmax q_i]        per cent
        kl        = 1 / n * sum_i sum_c p_ic (log p_ic - log q_ic)   nats

    with the softmax scores p of the float model and q of the evaluated model on the same n images.
    """

    def fits(self, sample: Any) -> bool:
        """Whether there is a score for each class."""
        return hasattr(sample, "pred_score")

    def stored(self, sample: Any) -> Stored:
        """The scores, ``(classes,)`` in float64."""
        p = sample.pred_score.cpu().double()
        # In float32 the sum differs from 1 by more than the divergence of two similar distributions.
        return (p / p.sum(),)

    def sums(self, theirs: Sequence[Stored], ours: Sequence[Stored]) -> Tensor:
        """Number of images, number that agree, sum of the divergences."""
        p, q = (torch.stack([row for (row,) in rows]) for rows in (theirs, ours))
        smallest = torch.finfo(torch.float64).tiny
        divergence = p * (p.clamp(min=smallest).log() - q.clamp(min=smallest).log())
        agrees = (p.argmax(1) == q.argmax(1)).sum()
        return torch.stack([torch.tensor(len(p)), agrees, divergence.sum()]).double()

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Agreement and divergence."""
        images, agreed, divergence = sums.tolist()
        return {"float/agreement": 100 * agreed / images, "float/kl": divergence / images}


class MapComparison(Comparison):
    """Class maps of semantic segmentors.

    ::

        agreement = 100 * (pixels of the float model's class) / (pixels)   per cent

    over the pixels of all images, also those without a label.
    """

    def fits(self, sample: Any) -> bool:
        """Whether there is a class for each pixel, and no panoptic segments beside them."""
        return hasattr(sample, "pred_sem_seg") and not hasattr(sample, "pred_panoptic_seg")

    def stored(self, sample: Any) -> Stored:
        """The class map, ``(1, height, width)`` in uint8, or in int16 if a class does not fit."""
        classes = sample.pred_sem_seg.data
        return (classes.to(torch.uint8 if classes.max() < 256 else torch.int16).cpu(),)

    def sums(self, theirs: Sequence[Stored], ours: Sequence[Stored]) -> Tensor:
        """Number of images, of pixels, and of pixels that agree."""
        pixels = sum(classes.numel() for (classes,) in ours)
        agreed = sum(int((one == other).sum()) for (one,), (other,) in zip(theirs, ours, strict=True))
        return torch.tensor([len(ours), pixels, agreed], dtype=torch.float64)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """The agreement."""
        _, pixels, agreed = sums.tolist()
        return {"float/agreement": 100 * agreed / pixels}


class BoxComparison(Comparison):
    """Boxes of detectors, or those around the masks of detectors without boxes (SOLO).

    ::

        agreement = 100 * F1 = 100 * 2 * matches / (n_float + n_evaluated)   per cent

    over the detections of all images with a score of at least 0.3. In the order of falling score, each detection of the
    evaluated model is matched with a detection of the float model that has the same label and is not matched yet: the
    one with the largest IoU, if that is at least 0.5. Where neither model detects anything in any image, the agreement
    is 100.

    Example: The float model finds a cat and a dog, the evaluated model the cat and a chair: one match, F1 = 2 / 4.
    """

    def fits(self, sample: Any) -> bool:
        """Whether there are boxes, and no panoptic segments beside them."""
        found = getattr(sample, "pred_instances", None)
        has_all = found is not None and all(key in found for key in ("bboxes", "labels", "scores"))
        return has_all and not hasattr(sample, "pred_panoptic_seg")

    def stored(self, sample: Any) -> Stored:
        """Boxes, ``(detections, 4)`` as corners in pixels, and labels, ``(detections,)``, by falling score."""
        found = sample.pred_instances
        scores = found["scores"]
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] >= MIN_SCORE]
        boxes = found["bboxes"][order].float()
        if "masks" in found and not boxes.any():  # mmdet's placeholder
            masks = found["masks"][order]
            drawn = masks.flatten(1).any(1)
            boxes[drawn] = masks_to_boxes(masks[drawn]).float()
        return boxes.cpu(), found["labels"][order].int().cpu()

    def sums(self, theirs: Sequence[Stored], ours: Sequence[Stored]) -> Tensor:
        """Number of images, of both models' detections, and of matches."""
        detections = sum(len(labels) for _, labels in (*theirs, *ours))
        matched = sum(matches(one, other) for one, other in zip(theirs, ours, strict=True))
        return torch.tensor([len(ours), detections, matched], dtype=torch.float64)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """The agreement."""
        _, detections, matched = sums.tolist()
        return {"float/agreement": 200 * matched / detections if detections else 100.0}


def matches(theirs: Stored, ours: Stored) -> int:
    """The number of detections of an image that are matched one to one, see :class:`BoxComparison`.

    Args:
        theirs: Boxes and labels of the float model.
        ours: Boxes and labels of the evaluated model, by falling score.
    """
    (their_boxes, their_labels), (our_boxes, our_labels) = theirs, ours
    if not len(their_boxes):
        return 0
    # A box without an area has no IoU with itself: not a number.
    overlaps = box_iou(our_boxes, their_boxes).nan_to_num(0.0)
    overlaps[our_labels[:, None] != their_labels] = 0.0
    matched = 0
    for row in overlaps:
        value, taken = row.max(0)
        if value >= MIN_IOU:
            overlaps[:, taken] = 0.0
            matched += 1
    return matched


COMPARISONS: tuple[Comparison, ...] = (ScoreComparison(), MapComparison(), BoxComparison())


def comparison_of(samples: Sequence[Any]) -> Comparison:
    """The comparison of a batch's predictions.

    Args:
        samples: Data samples with predictions.

    Raises:
        UsageError: The predictions are of none of the kinds.
    """
    for one in COMPARISONS:
        if all(one.fits(sample) for sample in samples):
            return one
    raise UsageError(
        "AgreementHook compares classifiers, semantic segmentors and detectors: take it out of custom_hooks"
    )
