"""timm's LeViT, EfficientFormer, Microsoft's EfficientViT and TinyViT: attention with biases by relative position.

``softmax(q k^T / sqrt(d) + B) v`` with narrow q and k and wide v. The library keeps B, which it looks up in a table,
from one pass to the next; the quantized form does not.

LeViT: Graham et al., ICCV 2021. EfficientFormer: Li et al., NeurIPS 2022; its second version mixes the heads before and
behind the softmax by 1x1 convolutions. EfficientViT: Liu et al., CVPR 2023, whose heads run one behind the other, each
adding its output to the next one's input. TinyViT: Wu et al., ECCV 2022.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....quantization import QuantPolicy
from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import intercepted
from ..product_taps import channels_first, tap_products
from ..windows.regions import tap_windows, window_regions

CACHE = ("attention_bias_cache",)
LEVIT = ("timm.models.levit.Attention", "timm.models.levit.AttentionDownsample")
FORMER2 = "timm.models.efficientformer_v2."
GROUPS = "timm.models.efficientvit_msra.CascadedGroupAttention"
TINY = "timm.models.tiny_vit."

_levit = intercepted("qkv", "q", "kv", caches=CACHE)
_levit_maps = intercepted("qkv", "q", "kv", transposed=True, caches=CACHE)
_tap_levit, _tap_levit_maps = tap_products(), tap_products(tokens=channels_first)


def quantize_levit(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form of LeViT's attention, on tokens or on maps."""
    return (_levit_maps if module.use_conv else _levit)(module, name, policy)


def tap_levit(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap LeViT's attention, on tokens or on maps."""
    return (_tap_levit_maps if module.use_conv else _tap_levit)(module, name, sink, 0)


def groups_calls(module: Any) -> tuple[str, ...]:
    """The products of a cascaded group attention: two of each head, whose inputs have ranges of their own."""
    return tuple(f"{key}{head}" for head in range(module.num_heads) for key in ("qk", "av"))


def tap_tiny_block(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the window attention of a block of TinyViT, which pads its map where it is not one window."""

    def regions_of(x: Tensor) -> tuple[int, Tensor, torch.device]:
        rows, columns = x.shape[1:3]
        whole = (rows, columns) == (module.window_size, module.window_size)
        side = (rows, columns) if whole else module.window_size
        return x.shape[0], window_regions(rows, columns, side, 0), x.device

    return tap_windows(module, module.attn, regions_of, f"{name}.attn", sink)


register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(LEVIT, quantize_levit),
            "timm.models.efficientformer.Attention": intercepted("qkv", caches=CACHE),
            f"{FORMER2}Attention2d": intercepted("q", "k", "v", softmax=False, caches=CACHE),
            f"{FORMER2}Attention2dDownsample": intercepted("q", "k", "v", caches=CACHE),
            GROUPS: intercepted("qkvs", calls=groups_calls, normalised=True, transposed=True, caches=CACHE),
            f"{TINY}Attention": intercepted("qkv", caches=CACHE),
        },
        taps={
            **dict.fromkeys(LEVIT, tap_levit),
            "timm.models.efficientformer.Attention": tap_products(prefixed=False),
            f"{FORMER2}Attention2d": tap_products(),
            f"{FORMER2}Attention2dDownsample": tap_products(),
            # the last head's, which has seen the others'
            GROUPS: tap_products(lambda module: 2 * module.num_heads, transposed=True),
            f"{TINY}TinyVitBlock": tap_tiny_block,
        },
        blocks=("timm.models.efficientformer.MetaBlock1d", f"{TINY}TinyVitBlock"),
    )
)
