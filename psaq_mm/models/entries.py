"""The registered types of quantized models, which artifact configs name.

There are two: a quantized backbone in a float model, and a quantized model. The other names are theirs with a fixed
``host``, as artifacts of every version have them.
"""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS as HOST_MODELS
from torch import nn

from ..registry import MODELS
from .backbones import TIMM_CLASSIFIER, backbone_of, check_supported, quantized_class
from .former import forms_of
from .hosts import host_class
from .quantized import as_then, policy_of, quantize_body, quantize_in_place


@MODELS.register_module()
def QuantizedBackbone(*, host: str, quantization: dict[str, Any], **backbone: Any) -> nn.Module:  # noqa: N802
    """Build the quantized subclass of a host's backbone (scope ``backbone``).

    Args:
        host: The host's type with its scope, e.g. ``'mmseg.VisionTransformer'``.
        quantization: See :func:`quantized_class`.
        **backbone: The host's own arguments.
    """
    cls = check_supported(host_class(host), host)
    with forms_of(quantization):
        return quantized_class(cls)(quantization=quantization, **backbone)


@MODELS.register_module()
def QuantizedModel(*, host: str, quantization: dict[str, Any], **model: Any) -> nn.Module:  # noqa: N802
    """Build a host's model and quantize it.

    This is a function, so that its result is an object of the host's class, with ``.backbone`` and the host's keys,
    which the hosts' tools and APIs need.

    Args:
        host: The host's type, e.g. ``'MaskRCNN'``.
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`, and ``scope``: ``'model'`` (default)
            quantizes all of it, ``'backbone'`` its backbone, or all but the layers that compute the classes. The latter
            is for models without a backbone, such as mmpretrain's ``TimmClassifier``, and for those that copy theirs
            for training, such as MoCo.
        **model: The host's own arguments.
    """
    _, scope = policy_of({"scope": "model", **quantization})
    host_class(host)  # which imports its library
    built = HOST_MODELS.build({"type": host, **model})
    with forms_of(quantization):
        quantization = as_then(built, {**quantization, "scope": scope})
        if scope == "model":
            return quantize_in_place(built, quantization)
        return quantize_body(built, backbone_of(built)[0], quantization)


@MODELS.register_module()
def QuantSwinTransformer(*, quantization: dict[str, Any], **backbone: Any) -> nn.Module:  # noqa: N802
    """:func:`QuantizedBackbone` with host ``mmdet.SwinTransformer``."""
    return QuantizedBackbone(host="mmdet.SwinTransformer", quantization=quantization, **backbone)


@MODELS.register_module()
def QuantizedTimmClassifier(*, quantization: dict[str, Any], **classifier: Any) -> nn.Module:  # noqa: N802
    """:func:`QuantizedModel` with host ``mmpretrain.TimmClassifier`` and scope ``backbone``."""
    return QuantizedModel(host=TIMM_CLASSIFIER, quantization={**quantization, "scope": "backbone"}, **classifier)
