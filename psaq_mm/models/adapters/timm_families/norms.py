"""Convolutions of timm's with the norm behind them, which is folded into them."""

from __future__ import annotations

from typing import Any

from ....quantization import register_pairs


@register_pairs(
    "timm.layers.conv_bn_act.ConvNormAct",
    "timm.models.efficientformer_v2.ConvNorm",
)
def conv_bn(module: Any) -> list[tuple[str, str]]:
    """The convolution, and its norm ``bn``."""
    return [("conv", "bn")]


@register_pairs("timm.models.efficientvit_mit.ConvNormAct", "timm.models.nextvit.ConvNormAct")
def conv_norm(module: Any) -> list[tuple[str, str]]:
    """The convolution, and its norm ``norm``."""
    return [("conv", "norm")]


@register_pairs("timm.models.levit.ConvNorm", "timm.models.levit.LinearNorm")
def linear_bn(module: Any) -> list[tuple[str, str]]:
    """The layer ``linear``, which may be a convolution, and its norm."""
    return [("linear", "bn")]
