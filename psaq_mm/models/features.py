"""The features on which teacher and student are compared, by level: backbone, blocks, neck or logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .adapters.declaration import transformer_blocks
from .backbones import backbone_of
from .hosts import host_name

OutputFunction = Callable[[nn.Module, Tensor], list[Tensor]]
# A name instead of the class, since a detector's recipe needs neither library.
CLASSIFIER, SEGMENTOR = "mmpretrain.BaseClassifier", "mmseg.BaseSegmentor"


def backbone_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The backbone's outputs: feature maps ``(images, channels, h, w)``, a class token, or timm's pooled features."""
    name, part = backbone_of(model)
    backbone: Any = part
    if name == "backbone":
        return list(_tensors(backbone(images)))
    # timm models return logits: compare the last feature map and the pooled features.
    features = backbone.forward_features(images)
    return [features, backbone.forward_head(features, pre_logits=True)]


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors in nested sequences: distilled transformers return pairs of tokens."""
    if isinstance(outputs, Tensor):
        yield outputs
    else:
        for one in outputs:
            yield from _tensors(one)


def block_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The output of every transformer block, then :func:`backbone_outputs`.

    The output of a plain transformer is one map or a class token, which does not show in which block errors arise.
    """
    found: list[Tensor] = []
    blocks = transformer_blocks(backbone_of(model)[1])
    handles = [block.register_forward_hook(lambda _, args, output: found.append(output)) for block in blocks]
    try:
        outputs = backbone_outputs(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return [*found, *outputs]


def neck_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """The neck's feature maps."""
    return list(model.neck(model.backbone(images)))


def classifier_logits(model: Any, images: Tensor) -> list[Tensor]:
    """A classifier's scores before the softmax, ``(images, classes)``."""
    return list(_tensors(model(images, mode="tensor")))


def segmentor_logits(model: Any, images: Tensor, auxiliary: bool = False) -> list[Tensor]:
    """A segmentor's maps of class scores before the softmax, ``(images, classes, h, w)``.

    Args:
        model: The segmentor.
        images: ``(images, 3, H, W)``.
        auxiliary: Whether the outputs of the auxiliary heads, which only training uses, follow.
    """
    features = model.extract_feat(images)
    first, *later = _heads(model.decode_head)
    logits = first(features)
    for head in later:
        logits = head(features, logits)
    others = _heads(getattr(model, "auxiliary_head", None)) if auxiliary else []
    return [logits, *(head(features) for head in others)]


def _heads(heads: Any) -> list[Any]:
    """One head or several, in a list."""
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads] if heads is not None else []


class DetectorLogits:
    """Class logits of a two-stage detector of mmdet: the proposal head's, and the box head's on given proposals.

    Both networks compute logits on the teacher's proposals, taken without gradient: logits on the student's own would
    be those of other boxes and could not be compared.

    Args:
        teacher: The FP detector.
        proposals: How many of its best proposals of each image are used.
        masks: Whether the mask head runs too, on a quarter of the proposals.

    Raises:
        UsageError: The model is no two-stage detector.
    """

    def __init__(self, teacher: Any, proposals: int = 64, masks: bool = False) -> None:
        if not (hasattr(teacher, "rpn_head") and hasattr(teacher, "roi_head")):
            raise UsageError(
                f"{type(teacher).__name__} is no two-stage detector, segmentor or classifier: "
                "compare on 'backbone' or 'neck', not 'logits', and use scope 'backbone'"
            )
        self.teacher = teacher
        self.proposals, self.masks = proposals, masks
        self._images: Tensor | None = None
        self._rois = torch.empty(0, 5)

    def __call__(self, model: Any, images: Tensor) -> list[Tensor]:
        """Objectness maps of every level, then ``(images * proposals, classes + 1)``."""
        features = model.neck(model.backbone(images))
        objectness = list(model.rpn_head(features)[0])
        # The teacher's own features are reused: in another pass, taps would collect its tokens a second time.
        rois = self.rois(images, features if model is self.teacher else None)
        head = model.roi_head.bbox_head
        heads = list(head) if isinstance(head, nn.ModuleList) else [head]
        extractor = model.roi_head.bbox_roi_extractor
        extractors = list(extractor) if isinstance(extractor, nn.ModuleList) else [extractor]
        scores = []
        for one, extract in zip(heads, extractors, strict=True):
            scores.append(one(extract(features[: extract.num_inputs], rois))[0])
        return objectness + scores + (self.mask_logits(model, features, rois[::4]) if self.masks else [])

    @staticmethod
    def mask_logits(model: Any, features: Sequence[Tensor], rois: Tensor) -> list[Tensor]:
        """The mask heads' logits on given boxes; empty where there are none."""
        if not getattr(model.roi_head, "with_mask", False):
            return []
        heads, extractors = model.roi_head.mask_head, model.roi_head.mask_roi_extractor
        pairs = zip(heads, extractors, strict=True) if isinstance(heads, nn.ModuleList) else [(heads, extractors)]
        return [head(extract(features[: extract.num_inputs], rois)) for head, extract in pairs]

    @torch.no_grad()
    def rois(self, images: Tensor, features: Sequence[Tensor] | None = None) -> Tensor:
        """The teacher's proposals on these images, ``(n, 5)``: image index, x1, y1, x2, y2.

        Args:
            images: ``(images, channels, H, W)``.
            features: The outputs of its neck for them, where they are known.
        """
        if self._images is not images:
            features = self.teacher.neck(self.teacher.backbone(images)) if features is None else features
            meta = {
                "img_shape": tuple(images.shape[-2:]),
                "scale_factor": (1.0, 1.0),
                "ori_shape": tuple(images.shape[-2:]),
            }
            outputs = self.teacher.rpn_head(features)
            found = self.teacher.rpn_head.predict_by_feat(*outputs, batch_img_metas=[meta] * len(images), rescale=False)
            boxes = [one.bboxes[: self.proposals] for one in found]
            numbered = [torch.cat([box.new_full((len(box), 1), i), box], 1) for i, box in enumerate(boxes)]
            self._images, self._rois = images, torch.cat(numbered)
        return self._rois


def output_function(level: str, teacher: nn.Module) -> OutputFunction:
    """The function ``(model, images) -> list of tensors`` of a feature level.

    Args:
        level: A key of :data:`FEATURE_LEVELS`.
        teacher: The FP model, which shows which parts there are.

    Raises:
        UsageError: The level is unknown, or the model has no such part.
    """
    if level not in FEATURE_LEVELS:
        raise UsageError(f"outputs cannot be compared on {level!r}: use one of {', '.join(FEATURE_LEVELS)}")
    return FEATURE_LEVELS[level](teacher)


def backbone_function(teacher: nn.Module) -> OutputFunction:
    """The function of level ``backbone``."""
    return backbone_outputs


def blocks_function(teacher: nn.Module) -> OutputFunction:
    """The function of level ``blocks``.

    Raises:
        UsageError: No adapter declares the blocks of the model.
    """
    if not transformer_blocks(backbone_of(teacher)[1]):
        raise UsageError(f"{type(teacher).__name__} has no transformer blocks: compare on 'backbone'")
    return block_outputs


def neck_function(teacher: nn.Module) -> OutputFunction:
    """The function of level ``neck``.

    Raises:
        UsageError: The model has no neck.
    """
    if getattr(teacher, "neck", None) is None:
        raise UsageError(f"{type(teacher).__name__} has no neck: compare on 'backbone'")
    return neck_outputs


def logits_function(teacher: nn.Module, everything: bool = False) -> OutputFunction:
    """The function of level ``logits``.

    Args:
        teacher: The FP model.
        everything: Whether mask and auxiliary heads run too, which the comparison leaves out.

    Raises:
        UsageError: The model is neither a classifier nor a segmentor nor a two-stage detector.
    """
    kinds = {host_name(base) for base in type(teacher).__mro__}
    if CLASSIFIER in kinds:
        return classifier_logits
    if SEGMENTOR in kinds and hasattr(teacher, "decode_head"):
        return partial(segmentor_logits, auxiliary=everything)
    return DetectorLogits(teacher, masks=everything)


def calibration_function(scope: str, teacher: nn.Module) -> OutputFunction:
    """The function that runs every quantizer of a scope: the backbone, or all heads."""
    return backbone_outputs if scope == "backbone" else logits_function(teacher, everything=True)


FEATURE_LEVELS: dict[str, Callable[[nn.Module], OutputFunction]] = {
    "backbone": backbone_function,
    "blocks": blocks_function,
    "neck": neck_function,
    "logits": logits_function,
}
