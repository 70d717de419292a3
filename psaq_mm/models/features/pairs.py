"""The features of the backbone and the class scores of the whole model, in one pass where the model allows it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from ...errors import UsageError
from ..backbones import backbone_of
from ..hosts import kinds_of
from .detectors import tensors
from .levels import CLASSIFIER, SEGMENTOR, OutputFunction, backbone_outputs, logits_function
from .two_stage import DetectorLogits


class FeaturesAndLogits:
    """Computes the backbone's outputs and the logits of a model.

    Args:
        teacher: The FP model, which shows which logits there are (:func:`.levels.logits_function`). The heads of
            two-stage detectors run on its boxes, which are kept for the last batch: use an object for each batch.

    Attributes:
        classes: Whether the logits are a classifier's or a segmentor's, of which a softmax over dimension 1 gives
            probabilities.
        scores: Whether the last logits are class scores, as also those of a two-stage detector on the proposals.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.classes = any(kind in kinds_of(teacher) for kind in (CLASSIFIER, SEGMENTOR))
        self.logits: OutputFunction | None = None
        with suppress(UsageError):  # DETRs
            self.logits = logits_function(teacher)
        self.scores = self.classes or isinstance(self.logits, DetectorLogits)

    def __call__(self, model: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Both lists of a batch ``(images, channels, H, W)``; the second is empty for a model without such logits."""
        name, part = backbone_of(model)
        if self.logits is None:
            return backbone_outputs(model, images), []
        if name != "backbone":  # timm's whole models
            return backbone_outputs(model, images), self.logits(model, images)
        found: list[Any] = []
        handle = part.register_forward_hook(lambda module, args, output: found.append(list(tensors(output))))
        try:
            scores = self.logits(model, images)
        finally:
            handle.remove()
        return found[0], scores
