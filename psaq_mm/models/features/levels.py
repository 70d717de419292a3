"""The features on which teacher and student are compared, by level: backbone, blocks, neck or logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...errors import UsageError
from ..adapters.declaration import BLOCKS
from ..adapters.generic import blocks_of
from ..backbones import backbone_of
from ..hosts import kinds_of, modules_of
from ..hosts.language import takes_text
from .detectors import (
    detector_outputs,
    is_one_stage,
    one_stage_logits,
    prediction_outputs,
    predicts_only,
    samples_of,
    tensors,
)
from .language import TextOutputs
from .trackers import TRACKER, detector_inside, video_outputs
from .two_stage import CalibrationOutputs, DetectorLogits, has_usual_heads

OutputFunction = Callable[[nn.Module, Tensor], list[Tensor]]
# The module of mmseg whose predict hands the output of each stage to the next.
CASCADE = "mmseg.models.decode_heads.cascade_decode_head"
# A name instead of the class, since a detector's recipe needs neither library.
QUERIES = "mmdet.MaskFormerHead"
CLASSIFIER, SEGMENTOR, DETECTOR = "mmpretrain.BaseClassifier", "mmseg.BaseSegmentor", "mmdet.BaseDetector"


def backbone_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The backbone's outputs: feature maps ``(images, channels, h, w)``, a class token, or timm's pooled features."""
    name, part = backbone_of(model)
    backbone: Any = part
    if name == "backbone":
        return list(tensors(backbone(images, **without_mask(backbone))))
    # timm models return logits: compare the last feature map and the pooled features.
    features = backbone.forward_features(images)
    return [features, backbone.forward_head(features, pre_logits=True)]


def without_mask(backbone: nn.Module) -> dict[str, None]:
    """Arguments with which a backbone of masked pre-training computes the whole image, as it does in its later use.

    Classes such as mmpretrain's ``MAEViT`` and ``BEiTPretrainViT`` take a mask, or draw one of their own at random;
    with ``mask=None`` they compute what their base class does. Other backbones get no arguments.
    """
    taken = inspect.signature(type(backbone).forward).parameters
    return {"mask": None} if "mask" in taken else {}


def block_outputs(model: nn.Module, images: Tensor, blocks: Sequence[str]) -> list[Tensor]:
    """The output of every block, or its outputs, in the order of execution, then :func:`backbone_outputs`.

    The output of a plain transformer is one map or a class token, which does not show in which block errors arise.

    Args:
        model: The float or quantized model.
        images: Normalised images ``(images, channels, height, width)``.
        blocks: The names of the blocks in the backbone.
    """
    found: list[Tensor] = []
    backbone = backbone_of(model)[1]
    # some blocks also give the size of their map
    handles = [
        backbone.get_submodule(name).register_forward_hook(lambda _, args, output: found.extend(tensors(output)))
        for name in blocks
    ]
    try:
        outputs = backbone_outputs(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return [*found, *outputs]


def neck_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """The neck's feature maps."""
    return list(model.neck(model.backbone(images, **without_mask(model.backbone))))


def classifier_logits(model: Any, images: Tensor) -> list[Tensor]:
    """A classifier's scores before the softmax, ``(images, classes)``."""
    return list(tensors(model(images, mode="tensor")))


def segmentor_logits(model: Any, images: Tensor) -> list[Tensor]:
    """A segmentor's map of class scores before the softmax, ``(images, classes, h, w)``.

    Auxiliary heads, which only training uses, do not run.
    """
    features = model.extract_feat(images)
    first, *later = modules_of(model.decode_head)
    logits = first(features)
    for head in later:
        logits = head(features, logits)
    return [logits]


def segmentor_function(teacher: Any) -> OutputFunction:
    """:func:`segmentor_logits`, for a segmentor each of whose heads computes the class scores of the whole image.

    Raises:
        UsageError: A head does not, such as that of PointRend.
    """
    if segments_by_queries(teacher):
        kind = type(teacher.decode_head).__name__
        raise UsageError(f"{kind} has queries instead of class scores to compare: compare on 'backbone'")
    for head in modules_of(teacher.decode_head)[1:]:
        if getattr(type(head).predict, "__module__", None) != CASCADE:
            raise UsageError(f"{type(head).__name__} has no class scores of the whole image: use scope 'backbone'")
    return segmentor_logits


def segments_by_queries(model: Any) -> bool:
    """Whether a segmentor's head gives a mask and a class for each query, as that of MaskFormer and Mask2Former."""
    return QUERIES in kinds_of(model.decode_head)


def query_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """The class scores and masks of each query of a segmentor, by each decoder layer."""
    return list(tensors(model.decode_head(model.extract_feat(images), samples_of(images))))


def output_function(level: str | None, teacher: nn.Module, scope: str = "backbone") -> OutputFunction:
    """The function ``(model, images) -> list of tensors`` of a feature level.

    Args:
        level: A key of :data:`FEATURE_LEVELS`; None for :func:`default_function`.
        teacher: The FP model, which shows which parts there are.
        scope: What is quantized, ``'backbone'`` or ``'model'``.

    Raises:
        UsageError: The level is unknown, or the model has no such part.
    """
    if level is None:
        return default_function(scope, teacher)
    if level not in FEATURE_LEVELS:
        raise UsageError(f"outputs cannot be compared on {level!r}: use one of {', '.join(FEATURE_LEVELS)}")
    return FEATURE_LEVELS[level](teacher)


def default_function(scope: str, teacher: nn.Module) -> OutputFunction:
    """The function of level ``logits`` if heads with hidden layers are quantized, else that of ``backbone``.

    Heads are trained only if their outputs are compared. That of a classifier is one layer, and its logits say less
    about the backbone than its features.
    """
    kinds = kinds_of(teacher)
    if scope == "model" and CLASSIFIER not in kinds:
        with suppress(UsageError):  # DETRs
            return logits_function(teacher)
    return backbone_outputs


def backbone_function(teacher: nn.Module) -> OutputFunction:
    """The function of level ``backbone``."""
    return backbone_outputs


def blocks_function(teacher: nn.Module) -> OutputFunction:
    """The function of level ``blocks``.

    Blocks are those that an adapter declares. A backbone without declared ones, such as a ResNet, is compared on its
    repeated blocks (:func:`.adapters.generic.blocks_of`); one that has none of these either, on its outputs alone.
    """
    backbone = backbone_of(teacher)[1]
    # The teacher's names, since a quantized module may look like a block where the float one does not.
    declared = [name for name, module in backbone.named_modules() if BLOCKS.match(type(module))]
    return partial(block_outputs, blocks=declared or [name for name, _ in blocks_of(backbone)])


def neck_function(teacher: nn.Module) -> OutputFunction:
    """The function of level ``neck``.

    Raises:
        UsageError: The model has no neck.
    """
    if getattr(teacher, "neck", None) is None:
        raise UsageError(f"{type(teacher).__name__} has no neck: compare on 'backbone'")
    return neck_outputs


def logits_function(teacher: nn.Module) -> OutputFunction:
    """The function of level ``logits``.

    Raises:
        UsageError: The model is none whose logits can be compared.
    """
    kinds = kinds_of(teacher)
    if CLASSIFIER in kinds:
        return classifier_logits
    if SEGMENTOR in kinds and hasattr(teacher, "decode_head"):
        return segmentor_function(teacher)
    if not is_one_stage(teacher):
        return DetectorLogits(teacher)
    return TextOutputs(teacher) if takes_text(teacher) else one_stage_logits


def calibration_function(scope: str, teacher: nn.Module) -> OutputFunction:
    """The function that runs every quantizer of a scope: the backbone, or all heads.

    Mask heads run too, which level ``logits`` leaves out. The heads of a two-stage detector get the
    teacher's boxes (:class:`CalibrationOutputs`); other detectors of mmdet run as they are, those that take text with
    the text of :func:`psaq_mm.models.hosts.language.text_of`. Of trackers the detector runs.

    Args:
        scope: ``'backbone'`` or ``'model'``.
        teacher: The FP model.

    Raises:
        UsageError: The scope is ``'model'``, and the model is no detector, segmentor or classifier.
    """
    if scope == "backbone":
        return backbone_outputs
    kinds = kinds_of(teacher)
    if SEGMENTOR in kinds and hasattr(teacher, "decode_head"):
        return query_outputs if segments_by_queries(teacher) else segmentor_function(teacher)
    if TRACKER in kinds:
        return tracker_function(teacher)
    if takes_text(teacher):
        return TextOutputs(teacher)
    if has_usual_heads(teacher):
        return CalibrationOutputs(teacher)
    if predicts_only(teacher):
        return prediction_outputs
    return detector_outputs if DETECTOR in kinds else logits_function(teacher)


def tracker_function(teacher: nn.Module) -> OutputFunction:
    """The function that calibrates a tracker's detector, or a model that segments videos.

    What follows the detector, such as embeddings by which objects are found again, does not run.
    """
    detector = detector_inside(teacher)
    if detector is None:
        return video_outputs
    outputs = calibration_function("model", detector)
    return lambda model, images: outputs(detector_inside(model) or model, images)


FEATURE_LEVELS: dict[str, Callable[[nn.Module], OutputFunction]] = {
    "backbone": backbone_function,
    "blocks": blocks_function,
    "neck": neck_function,
    "logits": logits_function,
}
