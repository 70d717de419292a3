"""Quantizing a model of a host in place, and the registered whole model."""

from __future__ import annotations

from typing import Any

from mmcv.cnn.bricks import wrappers
from mmengine.registry import MODELS as HOST_MODELS
from torch import nn

from ..errors import UsageError
from ..quantization import QuantPolicy, quantize_conv2d, quantize_linear, quantize_model, register_quantized
from ..registry import MODELS
from .adapters import swin, torch_attention, vit  # noqa: F401
from .adapters.decomposed import note_float_parts

SCOPES = ("backbone", "model")

# Their forwards only guard against empty batches of torch 1.4; nn's own handle them.
register_quantized(wrappers.Linear)(quantize_linear)
register_quantized(wrappers.Conv2d)(quantize_conv2d)


def policy_of(quantization: dict[str, Any]) -> tuple[QuantPolicy, str]:
    """The policy and the scope of a config's ``quantization``.

    Raises:
        UsageError: The scope is unknown.
        QuantizationError: The policy is not valid.
    """
    options = {key: value for key, value in quantization.items() if key != "scope"}
    scope = quantization.get("scope", "backbone")
    if scope not in SCOPES:
        raise UsageError(f"quantization scope {scope!r} is unknown: use one of {', '.join(SCOPES)}")
    return QuantPolicy.from_config(options), scope


def quantize_in_place(module: nn.Module, quantization: dict[str, Any], prefix: str = "") -> nn.Module:
    """Quantize a model or a part of it, uncalibrated.

    Args:
        module: The whole model, or a backbone.
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`, and ``scope``.
        prefix: The module's name in the model that the policy's patterns speak of.

    Returns:
        The module.
    """
    policy, _ = policy_of(quantization)
    quantized = quantize_model(module, policy, prefix=prefix)
    note_float_parts(quantized, policy)
    swin.let_bias_tables_load(quantized)
    return quantized


@MODELS.register_module()
def QuantizedModel(*, host: str, quantization: dict[str, Any], **model: Any) -> nn.Module:  # noqa: N802
    """Build a host's model and quantize all of it (scope ``model``).

    A function, so that what it returns *is* the host's class, with ``.backbone`` and the host's keys: the hosts'
    tools and APIs ask for both.

    Args:
        host: The host's type, e.g. ``'MaskRCNN'``.
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`.
        **model: The host's own arguments.
    """
    return quantize_in_place(HOST_MODELS.build({"type": host, **model}), quantization)
