"""timm's attention on maps inside of convolutional networks.

Visformer: Chen et al., ICCV 2021. FastViT: Vasu et al., ICCV 2023. SHViT (Yun and Ro, CVPR 2024) attends with one head
on a part of the channels. MobileNetV4: Qin et al., ECCV 2024, whose heads share one k and one v. iFormer, LowFormer and
CPUBone: attention on a map of lower resolution, or in windows.

BoTNet (Srinivas et al., CVPR 2021) and HaloNet (Vaswani et al., CVPR 2021) add products of q with tables of relative
positions, one for rows and one for columns, to the scores; these stay FP.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import intercepted
from ..product_taps import heads_first, tap_products

SIMPLE = ("timm.models.visformer.Attention", "timm.models.fastvit.Attention")
POOLED = ("timm.models.lowformer.ConvAttention", "timm.models.cpubone.ConvAttention")
SHARED = "timm.layers.attention2d.MultiQueryAttention2d"
MAPS = "timm.layers.attention2d.Attention2d"
SINGLE = "timm.models.shvit.SHSA"
GATED = "timm.models.iformer.SHMA"
BOTTLENECK = "timm.layers.bottleneck_attn.BottleneckAttn"
HALO = "timm.layers.halo_attn.HaloAttn"
POSITIONS = ("scores", None, None, "av")


def tap_positions(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap an attention whose scores get products with position tables, and whose heads are in the batch."""

    def tokens(merged: Tensor) -> Tensor:
        return merged.unflatten(0, (-1, module.num_heads)).mean(1)

    return tap_products(calls=4, tokens=tokens, prefixed=False)(module, name, sink, prefix)


def transposed_map(merged: Tensor) -> Tensor:
    """``(b, d, n)`` as ``(b, n, d)``."""
    return merged.mT


register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(SIMPLE, intercepted("qkv")),
            **dict.fromkeys(POOLED, intercepted("pwise")),
            MAPS: intercepted("qkv"),
            SHARED: intercepted("query", "key", "value"),
            SINGLE: intercepted("qkv", transposed=True),
            GATED: intercepted("q", "k", "v_gate", transposed=True, normalised=True),
            BOTTLENECK: intercepted("qkv", calls=POSITIONS),
            HALO: intercepted("q", "kv", calls=POSITIONS),
        },
        taps={
            **dict.fromkeys((*SIMPLE, *POOLED, MAPS, SHARED), tap_products(prefixed=False)),
            SINGLE: tap_products(tokens=transposed_map, prefixed=False),
            GATED: tap_products(tokens=heads_first, transposed=True, prefixed=False),
            BOTTLENECK: tap_positions,
            HALO: tap_positions,
        },
        blocks=("timm.models.visformer.Block",),
        layer_scales=("timm.models.shvit.LayerScale",),
    )
)
