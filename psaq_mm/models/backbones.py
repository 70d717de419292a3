"""Registered quantized backbones of mmdet, mmseg, mmpretrain and timm (scope ``backbone``)."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

from mmengine.registry import MODELS as HOST_MODELS
from torch import nn

from ..errors import UsageError
from ..registry import MODELS
from .adapters.taps import AttentionTaps
from .quantized import policy_of, quantize_in_place

SUPPORTED = {
    "SwinTransformer": ("mmdet", "mmseg", "mmpretrain"),
    "VisionTransformer": ("mmseg", "mmpretrain"),
    "DistilledVisionTransformer": ("mmpretrain",),
    "TIMMBackbone": ("mmseg", "mmpretrain"),
}
TIMM_CLASSIFIER = "mmpretrain.TimmClassifier"


def host_class(kind: str | type, scope: str | None = None) -> type[nn.Module] | None:
    """The class that a config's ``type`` names, in a scope or the default one; None where there is none."""
    if isinstance(kind, type):
        return kind
    with HOST_MODELS.switch_scope_and_registry(scope) as registry:
        return registry.get(kind)


def host_name(cls: type[nn.Module]) -> str:
    """Library and class, as any config may name it: ``'mmseg.VisionTransformer'``."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


def check_supported(cls: type[nn.Module] | None, kind: str) -> type[nn.Module]:
    """Make sure that a backbone's class, or a base whose forward it inherits, is one of :data:`SUPPORTED`.

    Raises:
        UsageError: It isn't; the message names those that are.
    """
    names = {f"{host}.{name}" for name, hosts in SUPPORTED.items() for host in hosts}
    for base in cls.__mro__ if cls is not None else ():
        if host_name(base) in names and base.forward is cls.forward:
            return cls
    known = ", ".join(f"{name} ({', '.join(hosts)})" for name, hosts in SUPPORTED.items())
    raise UsageError(f"backbone {kind} cannot be quantized: supported are {known}, and TimmClassifier (mmpretrain)")


@functools.cache
def quantized_class(host: type[nn.Module]) -> type[nn.Module]:
    """The quantized subclass of a host's backbone.

    Its constructor takes the host's arguments and ``quantization``: the keys of
    :class:`psaq_mm.quantization.QuantPolicy`, whose patterns name modules as in the whole model
    (``backbone.stages.0.*``).

    Raises:
        UsageError: The host's class has no adapter, or (when built) no attention that has one.
    """
    check_supported(host, host.__name__)

    class Quantized(host):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, quantization: dict[str, Any], **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # timm has models of every kind: say at once if this one is not understood
            AttentionTaps(self)
            quantize_in_place(self, quantization, prefix="backbone")

        def __reduce__(self) -> tuple[Any, ...]:
            # By the host's class, which pickle can find; this one is made where it is needed.
            return _blank, (host,), self.__dict__

    Quantized.__name__ = Quantized.__qualname__ = f"Quant{host.__name__}"
    Quantized.__doc__ = f"``{host_name(host)}``, quantized (scope ``backbone``); see :func:`quantized_class`."
    return Quantized


def _blank(host: type[nn.Module]) -> nn.Module:
    """A quantized backbone that pickle is about to fill."""
    cls = quantized_class(host)
    return cls.__new__(cls)


@MODELS.register_module()
def QuantizedBackbone(*, host: str, quantization: dict[str, Any], **backbone: Any) -> nn.Module:  # noqa: N802
    """Build the quantized subclass of a host's backbone.

    Args:
        host: The host's type with its scope, e.g. ``'mmseg.VisionTransformer'``.
        quantization: See :func:`quantized_class`.
        **backbone: The host's own arguments.
    """
    cls = check_supported(host_class(host), host)
    return quantized_class(cls)(quantization=quantization, **backbone)


if find_spec("mmdet") is not None:
    from mmdet.models.backbones import SwinTransformer

    QuantSwinTransformer = MODELS.register_module()(quantized_class(SwinTransformer))


@MODELS.register_module()
def QuantizedTimmClassifier(*, quantization: dict[str, Any], **classifier: Any) -> nn.Module:  # noqa: N802
    """Build mmpretrain's ``TimmClassifier`` with a quantized body (scope ``backbone``).

    It has no ``backbone``, only timm's ``model``: quantized is all of that but the layer that gives the classes, as
    heads stay FP in other models of this scope. An override may quantize it (``model.head``, ``keep_fp=False``).

    Args:
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`; patterns begin with ``model.``.
        **classifier: The arguments of ``TimmClassifier``.
    """
    model = HOST_MODELS.build({"type": TIMM_CLASSIFIER, **classifier})
    body = model.model
    AttentionTaps(body, "timm's model")
    found = body.get_classifier() if hasattr(body, "get_classifier") else ()
    heads = set(found) if isinstance(found, (tuple, list)) else {found}
    kept = [{"pattern": f"model.{name}", "keep_fp": True} for name, module in body.named_modules() if module in heads]
    # First, so that a later override of the user's wins.
    options = {**quantization, "overrides": [*kept, *quantization.get("overrides", ())]}
    policy_of(options)
    quantize_in_place(body, options, prefix="model")
    return model


def backbone_of(model: nn.Module) -> tuple[str, nn.Module]:
    """What scope ``backbone`` means in a model: the part and its name.

    Raises:
        UsageError: The model has no such part.
    """
    for name in ("backbone", "model"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            return name, part
    raise UsageError(f"{type(model).__name__} has no backbone: give a detector, a segmentor or a classifier")
