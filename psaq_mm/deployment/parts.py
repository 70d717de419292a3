"""The static parts of a model: the graphs between which a host's own code selects boxes and pastes masks.

========================  ==========================================================  =============
kind                      part of the images                                          parts of RoIs
========================  ==========================================================  =============
classifier                backbone, neck, head, to the class scores
segmentor                 backbone, neck, decode heads, to the maps of class scores
two-stage detector        backbone, neck, proposal head                               each box head, each mask head
single-stage detector     backbone, neck, dense head
any other model           backbone, neck; its other parts stay in torch
========================  ==========================================================  =============
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models import backbone_of
from ..models.features.levels import CASCADE, CLASSIFIER, SEGMENTOR
from ..models.hosts import host_name, kinds_of, modules_of

# What the hosts use in training alone.
TRAINING_PARTS = ("auxiliary_head",)
SINGLE_STAGE, TWO_STAGE = "mmdet.SingleStageDetector", "mmdet.TwoStageDetector"
# RoI heads whose code calls bbox_head and mask_head on RoI features alone.
ROI_HEADS = ("mmdet.StandardRoIHead", "mmdet.CascadeRoIHead")
IMAGES, FEATURES, HEAD = "images", "features", "head"


@dataclass(frozen=True)
class StaticPart:
    """A part of a model that one graph computes.

    Attributes:
        name: ``'images'``, or the name of a head in ``roi_head``: ``'bbox_head'``, ``'mask_head.2'``.
        covers: Names of the modules that the part contains, in the whole model.
        graph: Maps the part's input to a tuple of tensors.
        input_shape: Channels, height and width of the RoI features; None for the part of the images.
    """

    name: str
    covers: tuple[str, ...]
    graph: nn.Module
    input_shape: tuple[int, int, int] | None = None


class FlatOutputs(nn.Module):
    """Wraps a module whose outputs are nested sequences, so that its output is a tuple of tensors.

    The names of the tensors are their places: ``'head.0.3'`` is the fourth tensor of the first list of ``head``.

    Args:
        compute: Maps a tensor to a dictionary of outputs by name.

    Attributes:
        names: Names of the tensors; set by the first forward.
    """

    def __init__(self, compute: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        self.names: list[str] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """All tensors in order."""
        found = {name: one for key, value in self.compute(x).items() for name, one in flatten(key, value).items()}
        if not torch.compiler.is_exporting():
            self.names = list(found)
        return tuple(found.values())


def flatten(name: str, value: Any) -> dict[str, Tensor]:
    """The tensors of nested sequences by place; the inverse of :func:`nest`.

    Example: ``flatten('head', [[a, b], [c]])`` is ``{'head.0.0': a, 'head.0.1': b, 'head.1.0': c}``.

    Raises:
        UsageError: There is something else, such as a mapping or None.
    """
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, (list, tuple)):
        raise UsageError(
            f"{name} is a {type(value).__name__}, not a tensor or a list of tensors, and cannot be exported: use "
            "--part backbone or backbone+neck"
        )
    return {key: one for i, part in enumerate(value) for key, one in flatten(f"{name}.{i}", part).items()}


def nest(name: str, tensors: dict[str, Tensor]) -> Any:
    """Nested lists of the tensors whose names begin with ``name``; a single tensor if one has this name."""
    if name in tensors:
        return tensors[name]
    found: list[Any] = []
    while any(key == (place := f"{name}.{len(found)}") or key.startswith(f"{place}.") for key in tensors):
        found.append(nest(place, tensors))
    return found


class ImagePart(nn.Module):
    """Backbone, neck and dense head in one module.

    Args:
        backbone: The backbone.
        neck: The neck; None if there is none.
        heads: The heads: one of a classifier, detector or segmentor, or those of a cascade of segmentors.
        features: Whether the neck's feature maps are outputs too, for heads that are not part of the graph.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module | None, heads: Sequence[nn.Module], features: bool) -> None:
        super().__init__()
        self.backbone, self.neck, self.features = backbone, neck, features
        self.heads = nn.ModuleList(heads)

    def forward(self, images: Tensor) -> dict[str, Any]:
        """The outputs by name: ``'features'`` and ``'head'``, as far as there are any."""
        found: dict[str, Any] = {}
        x = self.backbone(images)
        if self.neck is not None:
            x = self.neck(x)
        if self.features:
            found[FEATURES] = (x,) if isinstance(x, Tensor) else tuple(x)
        for index, head in enumerate(self.heads):
            found[HEAD] = head(x, found[HEAD]) if index else head(x)
        return found


class HeadPart(nn.Module):
    """A head on RoI features, or a whole network, whose outputs are those of ``'head'``.

    Args:
        head: The module.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> dict[str, Any]:
        """The module's outputs as ``'head'``."""
        return {HEAD: self.head(x)}


def static_parts(model: Any) -> list[StaticPart]:
    """The static parts of a model, that of the images first.

    Args:
        model: A host's model, float or quantized.

    Raises:
        UsageError: A head is no function of feature maps or RoI features alone; the message names it and what can be
            exported instead.
    """
    name, backbone = backbone_of(model)
    if name != "backbone":  # a network with its classifier
        return [StaticPart(IMAGES, (name,), FlatOutputs(HeadPart(backbone)))]
    kinds = kinds_of(model)
    if TWO_STAGE in kinds:
        parts = [image_part(model, "rpn_head", features=True), *roi_parts(model)]
    elif SINGLE_STAGE in kinds and hasattr(model, "bbox_head"):  # Mask2Former is one without
        parts = [image_part(model, "bbox_head")]
    elif SEGMENTOR in kinds and hasattr(model, "decode_head"):
        parts = [image_part(model, "decode_head")]
    elif CLASSIFIER in kinds:
        parts = [image_part(model, "head")]
    else:
        return [image_part(model, None, features=True)]
    covered = {name.partition(".")[0] for part in parts for name in part.covers}
    left = [key for key, one in model.named_children() if key not in (*covered, *TRAINING_PARTS) and has_layers(one)]
    if left:
        raise not_exported(left[0], getattr(model, left[0]))
    return parts


def has_layers(module: nn.Module) -> bool:
    """Whether a module has parameters."""
    return any(True for _ in module.parameters())


def not_exported(name: str, module: nn.Module) -> UsageError:
    """The error about a part of a model that no graph can compute."""
    return UsageError(
        f"{name} ({type(module).__name__}) does not compute its results from feature maps or RoI features alone and "
        "cannot be exported: use --part backbone or backbone+neck"
    )


def image_part(model: Any, head: str | None, features: bool = False) -> StaticPart:
    """The part of the images.

    Args:
        model: The model.
        head: Name of its dense head, or of those of a cascade.
        features: Whether the feature maps are outputs.
    """
    neck = getattr(model, "neck", None)
    found = getattr(model, head, None) if head else None
    heads = modules_of(found)
    names = [f"{head}.{index}" for index in range(len(heads))] if isinstance(found, nn.ModuleList) else [str(head)]
    for index, one in enumerate(heads):
        usual = index == 0 or getattr(type(one).predict, "__module__", None) == CASCADE
        if not usual or required_arguments(one) != 1 + (index > 0):
            raise not_exported(names[index], one)
    covers = ("backbone", *(["neck"] if neck is not None else []), *names[: len(heads)])
    return StaticPart(IMAGES, covers, FlatOutputs(ImagePart(model.backbone, neck, heads, features or not heads)))


def roi_parts(model: Any) -> list[StaticPart]:
    """A part for each box head and mask head of a two-stage detector.

    Raises:
        UsageError: The detector has heads that work on more than RoI features.
    """
    roi_head = model.roi_head
    other = [key for key in ("shared_head", "semantic_head", "glbctx_head", "mask_iou_head") if hasattr(roi_head, key)]
    if host_name(type(roi_head)) not in ROI_HEADS or other:
        raise UsageError(
            f"roi_head {type(roi_head).__name__}{f' with {other[0]}' if other else ''} cannot be exported: supported "
            f"are {', '.join(one.rpartition('.')[2] for one in ROI_HEADS)}; use --part backbone or backbone+neck"
        )
    found = []
    for kind, extractors in (("bbox_head", "bbox_roi_extractor"), ("mask_head", "mask_roi_extractor")):
        heads = modules_of(getattr(roi_head, kind, None))
        cascade = isinstance(getattr(roi_head, kind, None), nn.ModuleList)
        for index, (head, extractor) in enumerate(
            zip(heads, modules_of(getattr(roi_head, extractors, None)), strict=True)
        ):
            name = f"{kind}.{index}" if cascade else kind
            if required_arguments(head) != 1:
                raise not_exported(name, head)
            shape = extractor.out_channels, *extractor.roi_layers[0].output_size
            found.append(StaticPart(name, (f"roi_head.{name}",), FlatOutputs(HeadPart(head)), shape))
    return found


def required_arguments(module: nn.Module) -> int:
    """The number of arguments of a module's forward that have no default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return sum(one.default is one.empty and one.kind in kinds for one in parameters)
