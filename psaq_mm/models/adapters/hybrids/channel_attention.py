"""XCiT and EdgeNeXt of mmpretrain: attention among channels.

El-Nouby et al., *XCiT*, NeurIPS 2021: the weights of the sum are between the d channels of a head, not between tokens,
so that they cost as much for large images as for small ones::

    softmax(tau q k^T / (|q| |k|)) v,    q, k, v: (d, tokens)

EdgeNeXt (Maaz et al., ECCV Workshops 2022) splits channels into depthwise convolutions before it. XCiT ends in layers
in which the class token alone attends to all tokens; these have no patches to tap.

The position encodings of both are convolutions of constant waves. They depend on the size of the map alone, so engines
compute them once, and they stay FP.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ....quantization import QuantPolicy, register_quantized
from ..conversion import NormOrder
from ..declaration import Adapter, register_adapter
from ..decomposed import note
from ..intercepted import intercepted
from ..product_taps import channels_first, tap_products

CONSTANT_ENCODING = "the position encoding is a constant of the map's size, computed in FP"
XCIT = "mmpretrain.models.backbones.xcit"
EDGENEXT = "mmpretrain.models.backbones.edgenext"
CHANNELS = (f"{XCIT}.XCA", "mmpretrain.models.utils.attention.ChannelMultiheadAttention")


# OpenVINO folds a quantized constant to wrong values (2026.4.1: 3 dB).
@register_quantized(
    f"{XCIT}.PositionalEncodingFourier",
    "mmpretrain.models.utils.position_encoding.PositionEncodingFourier",
    "timm.models.xcit.PositionalEncodingFourier",
    "timm.models.edgenext.PositionalEncodingFourier",
)
def keep_encoding(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The position encoding itself, with the reason why its layer stays FP."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            note(layer, dict.fromkeys(("weight", "bias", "input"), CONSTANT_ENCODING))
    return module


register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(CHANNELS, intercepted("qkv", normalised=True)),
            f"{XCIT}.ClassAttntion": intercepted("q", "k", "v"),
        },
        # The class token comes only behind the layers with attention among channels.
        taps=dict.fromkeys(CHANNELS, tap_products(tokens=channels_first, prefixed=False)),
        blocks=(
            f"{XCIT}.XCABlock",
            f"{EDGENEXT}.SDTAEncoder",
            "mmpretrain.models.backbones.convnext.ConvNeXtBlock",
        ),
        # whose own parameters are layer scales
        layer_scales=(
            f"{XCIT}.XCABlock",
            f"{XCIT}.ClassAttentionBlock",
            f"{EDGENEXT}.SDTAEncoder",
            "mmpretrain.models.backbones.convnext.ConvNeXtBlock",
        ),
        backbones=(f"{XCIT}.XCiT", f"{EDGENEXT}.EdgeNeXt"),
    )
)
# What its first norm gives to patches is also a summand of the residual sum, so no scales can go into the norm.
register_adapter(Adapter(blocks=(f"{XCIT}.ClassAttentionBlock",), norm_order=NormOrder.POST))
