"""Registered quantized models: what an artifact config names, and what every student is built from."""

from __future__ import annotations

import copy
from typing import Any

from mmcv.cnn.bricks import wrappers
from mmdet.models.backbones import SwinTransformer
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as HOST_MODELS
from torch import nn

from ..errors import UsageError
from ..quantization import QuantPolicy, quantize_conv2d, quantize_linear, quantize_model, register_quantized
from ..registry import MODELS
from . import swin  # noqa: F401  (registers the attention)

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
    return quantize_model(module, policy, prefix=prefix)


@MODELS.register_module()
class QuantSwinTransformer(SwinTransformer):
    """mmdet's ``SwinTransformer``, quantized (scope ``backbone``).

    Args:
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`; patterns name modules as in the whole
            detector (``backbone.stages.0.*``).
        *args: As of ``SwinTransformer``.
        **kwargs: As of ``SwinTransformer``.
    """

    def __init__(self, *args: Any, quantization: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        quantize_in_place(self, quantization, prefix="backbone")


@MODELS.register_module()
def QuantizedModel(*, host: str, quantization: dict[str, Any], **model: Any) -> nn.Module:  # noqa: N802
    """Build a host's model and quantize all of it (scope ``model``).

    A function, so that what it returns *is* the host's class, with ``.backbone`` and the host's keys: mmdet's
    tools and APIs ask for both.

    Args:
        host: The host's type, e.g. ``'MaskRCNN'``.
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`.
        **model: The host's own arguments.
    """
    return quantize_in_place(HOST_MODELS.build({"type": host, **model}), quantization)


_QUANTIZED_BACKBONES = {"SwinTransformer": "psaq_mm.QuantSwinTransformer"}


def artifact_model(model: ConfigDict, quantization: dict[str, Any]) -> ConfigDict:
    """The model config of the quantized sibling.

    Args:
        model: A float model's config.
        quantization: The keys of the policy, and ``scope``.

    Returns:
        A new config: with a registered quantized backbone for scope ``backbone``, or a :func:`QuantizedModel`.

    Raises:
        UsageError: The backbone has no registered quantized sibling.
    """
    quantized = copy.deepcopy(model)
    policy, scope = policy_of(quantization)
    options = policy.to_config()
    quantized.backbone.init_cfg = None
    if scope == "model":
        quantized.host = quantized.type
        quantized.type = "psaq_mm.QuantizedModel"
        quantized.quantization = options
        return quantized
    kind = quantized.backbone.type.rpartition(".")[2]
    if kind not in _QUANTIZED_BACKBONES:
        known = ", ".join(_QUANTIZED_BACKBONES)
        raise UsageError(f"backbone {kind} cannot be quantized: supported are {known}")
    quantized.backbone.type = _QUANTIZED_BACKBONES[kind]
    quantized.backbone.quantization = options
    return quantized
