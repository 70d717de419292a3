"""MixMIM of mmpretrain: Swin's window attention in large windows that do not shift."""

from __future__ import annotations

from typing import Any

from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import tap_products


def fixed_size(module: Any) -> tuple[int, int]:
    """The only image size of a backbone, whose blocks know the sizes of their maps."""
    height, width = module.patch_embed.init_input_size
    return int(height), int(width)


MMPRETRAIN = "mmpretrain.models.backbones.mixmim"
register_adapter(
    Adapter(
        # Liu et al., MixMAE: Mixed and Masked Autoencoder, CVPR 2023
        attentions={f"{MMPRETRAIN}.MixMIMWindowAttention": intercepted("qkv")},
        taps={f"{MMPRETRAIN}.MixMIMWindowAttention": tap_products(prefixed=False)},
        blocks=(f"{MMPRETRAIN}.MixMIMBlock",),
        backbones=(f"{MMPRETRAIN}.MixMIMTransformer",),
        fixed_sizes={f"{MMPRETRAIN}.MixMIMTransformer": fixed_size},
    )
)
