"""The outputs of mmdet's detectors that take text."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..hosts.language import text_of
from .detectors import samples_of, tensors


class TextOutputs:
    """The outputs of a detector that takes text, without post-processing, on one text for all images.

    Args:
        teacher: The FP detector, one of :data:`psaq_mm.models.hosts.language.TEXT_DETECTORS`, which holds the text.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.text = text_of(teacher)

    def __call__(self, model: Any, images: Tensor) -> list[Tensor]:
        """The outputs of the head.

        Args:
            model: The teacher, or the student.
            images: ``(images, channels, H, W)``.

        Returns:
            The scores of each token, then boxes: maps of each level, or those of each query by each decoder layer.
        """
        _, caption, *_ = model.get_tokens_and_prompts(list(self.text), True)
        text = model.language_model([caption] * len(images))
        features = model.extract_feat(images)
        if not hasattr(model, "forward_transformer"):
            scores, *others = model.bbox_head(features, text)
            # Texts are padded to one length; the scores of padding say nothing.
            length = int(text["masks"].sum(1).max())
            return list(tensors([[one[..., :length] for one in scores], others]))
        if model.text_feat_map is not None:
            text["embedded"] = model.text_feat_map(text["embedded"])
        inputs = model.forward_transformer(features, text, samples_of(images))
        scores, boxes = model.bbox_head(**inputs)
        length = int(text["text_token_mask"].sum(1).max())
        return list(tensors([scores[..., :length], boxes]))
