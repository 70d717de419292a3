"""Predictions of the float and of the quantized model on the same pictures."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import PSAQError
from ..visualization.images import as_seen
from .contents import Comparison
from .inputs import Input
from .pictures import MIN_SCORE, class_colours, drawn_classes, drawn_detections, drawn_differences, encoded

TITLES = ("float", "quantized")
TOP = 5
# Most detections drawn into one picture: more hide each other, and drawing takes seconds.
DRAWN = 15
# In mmdet's panoptic maps: class + 1000 * instance.
INSTANCE_OFFSET = 1000


def compare(inputs: Sequence[Input], teacher: nn.Module, student: nn.Module, meta: dict[str, Any]) -> list[Comparison]:
    """Run both models on pictures.

    Args:
        inputs: The pictures.
        teacher: The float model.
        student: The quantized model.
        meta: ``classes`` and ``palette`` of the data set, as far as they are known.

    Raises:
        PSAQError: The predictions are neither detections nor class maps nor class scores.
    """
    return [compared(one, [predicted(model, one.batch) for model in (teacher, student)], meta) for one in inputs]


@torch.no_grad()
def predicted(model: Any, batch: Any) -> Any:
    """A model's data sample of a batch of one picture; the class scores of a model without ``test_step``."""
    if hasattr(model, "test_step"):
        # A copy, because predictions are written into the samples of the batch.
        return model.test_step(copy.deepcopy(batch))[0]
    logits = model(batch.to(next(model.parameters()).device))
    return logits[0].float().softmax(0).cpu()


def compared(one: Input, samples: list[Any], meta: dict[str, Any]) -> Comparison:
    """The comparison of two models' predictions on a picture."""
    for fits, show in KINDS:
        if all(fits(sample) for sample in samples):
            return replace(show(one, samples, meta), generated=one.path is None)
    raise PSAQError(
        f"{type(samples[0]).__name__} has neither boxes nor class maps nor class scores: such predictions are not shown"
    )


def class_name(meta: dict[str, Any], index: int) -> str:
    """The name of a class, or ``class 3``."""
    classes = meta.get("classes") or ()
    return str(classes[index]) if 0 <= index < len(classes) else f"class {index}"


def class_map(sample: Any) -> np.ndarray | None:
    """The class of each pixel, ``(H, W)``, of a semantic or panoptic segmentor; else None."""
    panoptic = getattr(sample, "pred_panoptic_seg", None)
    if panoptic is not None:
        return panoptic.sem_seg.squeeze().cpu().numpy().astype(np.int64) % INSTANCE_OFFSET
    semantic = getattr(sample, "pred_sem_seg", None)
    return None if semantic is None else semantic.data.squeeze().cpu().numpy().astype(np.int64)


def show_detections(one: Input, samples: list[Any], meta: dict[str, Any]) -> Comparison:
    """Boxes and masks, and the number of detections of each class."""
    pictures, counts = [], []
    for title, sample in zip(TITLES, samples, strict=True):
        pixels = one.pixels if one.path is None else as_seen(one.path, one.pixels, sample)
        found = sample.pred_instances[sample.pred_instances.scores > MIN_SCORE]
        names = Counter(class_name(meta, label) for label in found.labels.tolist())
        counts.append(names)
        text = ", ".join(f"{number} {name}" for name, number in names.most_common()) or "none"
        best = found[found.scores.argsort(descending=True, stable=True)[:DRAWN]]
        drawn = drawn_detections(pixels, type(sample)(pred_instances=best, metainfo=sample.metainfo), meta)
        pictures.append(encoded(drawn, title, f"detections of the {title} model in {one.name}: {text}"))
    rows = [(name, str(counts[0][name]), str(counts[1][name])) for name in sorted(counts[0] | counts[1])]
    many = max(sum(one.values()) for one in counts) > DRAWN
    remark = f"Detections with a score above {MIN_SCORE}{f', the {DRAWN} best of which are drawn' if many else ''}."
    return Comparison(one.name, tuple(pictures), ("class", *TITLES), tuple(rows), remark=remark)


def show_classes_of_pixels(one: Input, samples: list[Any], meta: dict[str, Any]) -> Comparison:
    """Coloured class maps, the pixels in which they differ, and the share of each class."""
    maps = [found for sample in samples if (found := class_map(sample)) is not None]
    pixels = one.pixels if one.path is None else as_seen(one.path, one.pixels, samples[0])
    colours = class_colours(maps, len(meta.get("classes") or ()))
    pictures = [
        encoded(drawn_classes(pixels, found, colours), title, f"classes of the {title} model in {one.name}")
        for title, found in zip(TITLES, maps, strict=True)
    ]
    differs = f"{100 * float((maps[0] != maps[1]).mean()):.2f} % of pixels differ"
    drawn = drawn_differences(pixels, *maps)
    pictures.append(encoded(drawn, differs, f"pixels of {one.name} to which the models give other classes"))
    rows = [
        (class_name(meta, index), *(f"{100 * float((found == index).mean()):.1f} %" for found in maps))
        for index in colours
    ]
    return Comparison(
        one.name, tuple(pictures), ("class", *TITLES), tuple(rows), colours=tuple(colours[index] for index in colours)
    )


def show_class_scores(one: Input, samples: list[Any], meta: dict[str, Any]) -> Comparison:
    """The picture, and both models' scores of the classes that the float model thinks most likely."""
    scores = [getattr(sample, "pred_score", sample).float().cpu() for sample in samples]
    top = scores[0].topk(min(TOP, len(scores[0]))).indices.tolist()
    best = int(scores[1].argmax())
    top += [] if best in top else [best]
    shares = tuple((float(scores[0][index]), float(scores[1][index])) for index in top)
    rows = tuple(
        (class_name(meta, index), *(f"{100 * share:.1f} %" for share in pair))
        for index, pair in zip(top, shares, strict=True)
    )
    picture = encoded(one.pixels, "", f"the picture {one.name}")
    return Comparison(one.name, (picture,), ("class", *TITLES), rows, shares=shares)


def has_scores(sample: Any) -> bool:
    """Whether there is a score for each class."""
    scores = getattr(sample, "pred_score", sample)
    return isinstance(scores, torch.Tensor) and scores.dim() == 1 and len(scores) > 1


def has_boxes(sample: Any) -> bool:
    """Whether there are boxes."""
    found = getattr(sample, "pred_instances", None)
    return found is not None and all(key in found for key in ("bboxes", "labels", "scores"))


KINDS: tuple[tuple[Callable[[Any], bool], Callable[..., Comparison]], ...] = (
    (has_scores, show_class_scores),
    (lambda sample: class_map(sample) is not None, show_classes_of_pixels),
    (has_boxes, show_detections),
)
