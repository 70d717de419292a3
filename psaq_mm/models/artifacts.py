"""From a float model's config to the config of its quantized sibling."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import ConfigDict

from ..errors import UsageError
from .backbones import TIMM_CLASSIFIER, check_supported, host_class, host_name
from .checkpointing import FLAGS
from .quantized import policy_of

HOSTS = ("mmdet", "mmseg", "mmpretrain")
# num_cp: how many layers of a DETR's encoder
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
        quantized.host = named(quantized.type)
        quantized.type = "psaq_mm.QuantizedModel"
        quantized.quantization = options
        return quantized
    if "backbone" not in quantized:
        quantized.type = classifier_type(quantized)
        quantized.quantization = options
        return quantized
    backbone = quantized.backbone
    kind = named(backbone.type).rpartition(".")[2]
    cls = check_supported(host_class(backbone.type, backbone.pop("_scope_", None)), kind)
    if host_name(cls) == "mmdet.SwinTransformer":
        backbone.type = "psaq_mm.QuantSwinTransformer"
    else:
        backbone.type, backbone.host = "psaq_mm.QuantizedBackbone", host_name(cls)
    backbone.quantization = options
    return quantized


def without_downloads(model: ConfigDict) -> ConfigDict:
    """A copy of a model's config that builds with random weights and without activation checkpointing.

    A checkpoint replaces the weights. Activation checkpointing is for the float model's training, and some hosts ask
    for a package of its own for it.
    """
    bare = copy.deepcopy(model)
    switch_off(bare)
    for part in (bare, bare.get("backbone")):
        if part is None:
            continue
        name = named(part.type).rpartition(".")[2]
        if part is not bare:
            part.init_cfg = None
        if name in ("TIMMBackbone", "TimmClassifier"):
            # mmseg's is on unless it is said to be off
            part.pretrained = False
            part.pop("checkpoint_path", None)
        elif part.get("pretrained") is not None:
            part.pretrained = None
    return bare


def switch_off(part: Any) -> None:
    """Set what turns activation checkpointing on in a config, or in anything inside it, to what turns it off."""
    if isinstance(part, dict):
        for key, off in CHECKPOINTING.items():
            if part.get(key):
                part[key] = off
        part = list(part.values())
    for one in part if isinstance(part, (list, tuple)) else ():
        switch_off(one)


def classifier_type(model: ConfigDict) -> str:
    """The quantized type of a model without a backbone, which only timm's classifier may be."""
    cls = host_class(model.type, model.pop("_scope_", None))
    if cls is None or host_name(cls) != TIMM_CLASSIFIER:
        raise UsageError(
            f"{named(model.type)} has no backbone to quantize: use scope 'model', or a model with a backbone"
        )
    return "psaq_mm.QuantizedTimmClassifier"


def named(kind: str | type) -> str:
    """A config's ``type`` as a string that the hosts' registries understand."""
    if isinstance(kind, str):
        return kind
    # the full name of what no host has registered, which registries import
    return host_name(kind) if host_name(kind).partition(".")[0] in HOSTS else f"{kind.__module__}.{kind.__qualname__}"
