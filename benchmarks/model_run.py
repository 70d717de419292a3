"""Whole models that are timed part by part, and numbers of RoIs that are equal for all of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from psaq_mm.deployment.parts import IMAGES, StaticPart, kinds_of, modules_of
from psaq_mm.models.features.levels import CLASSIFIER, SEGMENTOR

GLUE, ALL = "glue", "all"
SMALLEST_BOX = 16.0  # pixels
Batch = tuple[Tensor, list[BaseDataElement]]


@dataclass(frozen=True)
class FixedRois:
    """Numbers of boxes that are the same for all models, whatever their weights find.

    Attributes:
        proposals: Boxes that the box heads see.
        masks: Boxes that the mask heads see, and masks that are pasted.
        score_thr: The smallest score that the suppression of overlapping boxes sees; None for the config's.
    """

    proposals: int
    masks: int
    score_thr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def drawn_boxes(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Boxes of many sizes: ``(count, 4)``, sides log-uniform from 16 pixels to the image's shorter side."""
    generator = torch.Generator().manual_seed(seed)
    longest = torch.tensor(float(max(min(size), SMALLEST_BOX)))
    low, high = torch.tensor(SMALLEST_BOX).log(), longest.log()
    sides = (low + (high - low) * torch.rand(count, 2, generator=generator)).exp()
    room = torch.tensor([size[1], size[0]]) - sides
    corner = room.clamp(min=0) * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + sides], 1)


def fix_rois(model: Any, size: tuple[int, int], rois: FixedRois) -> None:
    """Let a two-stage detector go on with drawn boxes where it has selected its proposals and its detections.

    Both selections still run, and their time counts.

    Args:
        model: A two-stage detector, changed in place.
        size: Height and width of the image.
        rois: How many boxes.
    """
    propose, detect = model.rpn_head.predict, model.roi_head.predict_bbox
    classes = last_box_head(model).num_classes
    if rois.score_thr is not None:
        model.roi_head.test_cfg = copy.deepcopy(model.roi_head.test_cfg)
        model.roi_head.test_cfg.score_thr = rois.score_thr
    proposals, detections = drawn_boxes(rois.proposals, size, 0), drawn_boxes(rois.masks, size, 1)

    def instances(boxes: Tensor, labels: Tensor) -> InstanceData:
        # Clones, because mmdet scales boxes in place.
        return InstanceData(bboxes=boxes.clone(), scores=torch.ones(len(boxes)), labels=labels.clone())

    def fixed_proposals(*args: Any, **kwargs: Any) -> list[InstanceData]:
        found = propose(*args, **kwargs)
        return [instances(proposals, torch.zeros(len(proposals), dtype=torch.long)) for _ in found]

    def fixed_detections(*args: Any, **kwargs: Any) -> list[InstanceData]:
        found = detect(*args, **kwargs)
        return [instances(detections, torch.arange(len(detections)) % classes) for _ in found]

    model.rpn_head.predict, model.roi_head.predict_bbox = fixed_proposals, fixed_detections


def last_box_head(model: Any) -> Any:
    """The box head of a two-stage detector whose scores are those of its detections."""
    return modules_of(model.roi_head.bbox_head)[-1]


def score_of_candidates(model: Any, batch: Batch, count: int) -> float:
    """The score that so many pairs of box and class exceed, in the float model, whose weights may be random.

    Args:
        model: A two-stage detector with fixed RoIs.
        batch: An image.
        count: How many pairs.
    """
    head = last_box_head(model)
    seen: list[Tensor] = []
    original = head.predict_by_feat

    def listen(*args: Any, **kwargs: Any) -> Any:
        scores = torch.cat(list(kwargs["cls_scores"]))
        custom = getattr(head, "custom_activation", False)
        seen.append((head.loss_cls.get_activation(scores) if custom else scores.softmax(-1))[:, :-1])
        return original(*args, **kwargs)

    head.predict_by_feat = listen
    try:
        predict(model, batch)
    finally:
        del head.predict_by_feat
    found = seen[0].flatten()
    return float(found.topk(min(count, len(found))).values[-1])


@torch.no_grad()
def predict(model: nn.Module, batch: Batch) -> Any:
    """From a normalised image to boxes and pasted masks, a label map or a class, as the host's own code does it."""
    images, samples = batch
    return model(images, samples, mode="predict")


def sample_of(model: nn.Module, size: tuple[int, int]) -> BaseDataElement:
    """The host's data sample of an image that was not resized."""
    kinds = kinds_of(model)
    if CLASSIFIER in kinds:
        from mmpretrain.structures import DataSample as Sample
    elif SEGMENTOR in kinds:
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), tuple(size))
    return Sample(metainfo={**shapes, "scale_factor": (1.0, 1.0), "img_id": 0, "img_path": "image"})


class WholeModel:
    """A model from normalised image to predictions; a call appends the seconds of its parts and of the rest.

    Args:
        model: A host's model, float or deployed; the forwards of its parts are wrapped.
        parts: Its static parts.
        batch: What a call predicts.

    Attributes:
        seconds: For each call, seconds by name of the part, and of :data:`GLUE`.
    """

    def __init__(self, model: nn.Module, parts: Sequence[StaticPart], batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.names = [part.name for part in parts]
        self.spent: dict[str, float] = {}
        self.seconds: list[dict[str, float]] = []
        modules = dict(model.named_modules())
        for part in parts:
            # A deployed network with its classifier has a backbone in place of 'model'.
            covers = {*part.covers, *(["backbone"] if part.name == IMAGES else [])}
            for name in covers & modules.keys():
                self.watch(modules[name], part.name)

    def watch(self, module: Any, part: str) -> None:
        """Add the seconds of a module's forward to those of a part."""
        forward: Callable[..., Any] = module.forward

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            outputs = forward(*args, **kwargs)
            self.spent[part] += time.perf_counter() - start
            return outputs

        module.forward = timed

    def __call__(self) -> None:
        """Predict once."""
        self.spent = dict.fromkeys(self.names, 0.0)
        start = time.perf_counter()
        predict(self.model, self.batch)
        whole = time.perf_counter() - start
        self.seconds.append({**self.spent, GLUE: whole - sum(self.spent.values())})
