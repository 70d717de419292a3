"""From a float model's config to the config of its quantized sibling."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.config import ConfigDict

from ..errors import UsageError
from .adapters.declaration import CLASSIFIERS
from .backbones import check_supported
from .checkpointing import FLAGS
from .hosts import host_class, host_name, named
from .quantized import policy_of

# num_cp: how many layers of a DETR's encoder use it
CHECKPOINTING = {**dict.fromkeys(FLAGS, False), "num_cp": -1}


def artifact_model(model: ConfigDict, quantization: dict[str, Any]) -> ConfigDict:
    """The model config of the quantized sibling.

    Args:
        model: A float model's config.
        quantization: The keys of the policy, and ``scope``.

    Returns:
        A new config: with a registered quantized backbone for scope ``backbone``, or a :func:`QuantizedModel`. No
        part of it downloads weights.

    Raises:
        UsageError: The backbone has no registered quantized sibling.
    """
    quantized = without_downloads(model)
    policy, scope = policy_of(quantization)
    options = policy.to_config()
    if scope == "model":
        return as_whole(quantized, {**options, "overrides": by_whole_names(quantized, options["overrides"])})
    options["overrides"] = by_detector_names(quantized, options["overrides"])
    owner = owner_of_backbone(quantized)
    if "backbone" in owner and copies_backbone(quantized):
        # The copy is made when the model is built, so that it would have quantizers that no image reaches.
        return as_whole(quantized, {**options, "scope": "backbone"})
    if "backbone" not in owner:
        quantized.type = classifier_type(quantized)
        quantized.quantization = options
        return quantized
    backbone = owner.backbone
    kind = named(backbone.type).rpartition(".")[2]
    cls = check_supported(host_class(backbone.type, backbone.pop("_scope_", None)), kind)
    if named(cls) == "mmdet.SwinTransformer":
        backbone.type = "psaq_mm.QuantSwinTransformer"
    else:
        backbone.type, backbone.host = "psaq_mm.QuantizedBackbone", named(cls)
    backbone.quantization = options
    return quantized


def without_downloads(model: ConfigDict) -> ConfigDict:
    """A copy of a model's config that builds with random weights and without activation checkpointing.

    A checkpoint replaces the weights. Activation checkpointing is for the float model's training, and needs an extra
    package in some hosts.
    """
    bare = copy.deepcopy(model)
    switch_off(bare)
    owner = owner_of_backbone(bare)
    for part in (bare, *([owner] if owner is not bare else []), owner.get("backbone")):
        if part is None:
            continue
        name = named(part.type).rpartition(".")[2]
        # a module of the user's need not take the argument
        if part is not bare and "init_cfg" in part:
            part.init_cfg = None
        if name in ("TIMMBackbone", "TimmClassifier"):
            # mmseg's default is True
            part.pretrained = False
            part.pop("checkpoint_path", None)
        elif part.get("pretrained") is not None:
            part.pretrained = None
    return bare


def owner_of_backbone(model: ConfigDict) -> ConfigDict:
    """The part of a model's config that has the backbone: a tracker's detector, or the config itself."""
    detector = model.get("detector")
    inside = "backbone" not in model and isinstance(detector, dict) and "backbone" in detector
    return detector if inside else model


def as_whole(model: ConfigDict, quantization: dict[str, Any]) -> ConfigDict:
    """Name :func:`QuantizedModel` as the type of a config, which builds the float model and then quantizes it."""
    model.host = named(model.type)
    model.type = "psaq_mm.QuantizedModel"
    model.quantization = quantization
    return model


def copies_backbone(model: ConfigDict) -> bool:
    """Whether a model may build a moving average of its backbone for its training, as MoCo and BYOL do."""
    cls = host_class(model.type, model.get("_scope_"))
    return any(host_name(base) == "mmpretrain.BaseSelfSupervisor" for base in getattr(cls, "__mro__", ()))


def by_whole_names(model: ConfigDict, overrides: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Overrides of a tracker whose patterns go by the detector's names, by those of the whole model."""
    owner = owner_of_backbone(model)
    if owner is model:
        return overrides
    return [
        {**one, "pattern": f"detector.{one['pattern']}"}
        if any(fnmatchcase(key, one["pattern"].partition(".")[0]) for key in owner)
        else one
        for one in overrides
    ]


def by_detector_names(model: ConfigDict, overrides: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Overrides of a tracker whose patterns go by the whole model's names, by those of its detector.

    Those of the whole model are in the tables of an analysis. A quantized backbone knows its name in the detector.
    """
    if owner_of_backbone(model) is model:
        return overrides
    return [{**one, "pattern": one["pattern"].removeprefix("detector.")} for one in overrides]


def switch_off(part: Any) -> None:
    """Turn activation checkpointing off in a config and in all parts of it."""
    if isinstance(part, dict):
        for key, off in CHECKPOINTING.items():
            if part.get(key):
                part[key] = off
        part = list(part.values())
    for one in part if isinstance(part, (list, tuple)) else ():
        switch_off(one)


def classifier_type(model: ConfigDict) -> str:
    """The quantized type of a model without a backbone.

    Raises:
        UsageError: It is not mmpretrain's ``TimmClassifier``, the only such model that is supported.
    """
    cls = host_class(model.type, model.pop("_scope_", None))
    if cls is None or not CLASSIFIERS.match(cls):
        raise UsageError(
            f"{named(model.type)} has no backbone to quantize: use scope 'model', or a model with a backbone"
        )
    return "psaq_mm.QuantizedTimmClassifier"
