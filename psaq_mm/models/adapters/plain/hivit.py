"""HiViT of mmpretrain: patches are merged from parts without attention, which only the last stage has."""

from __future__ import annotations

from typing import Any

from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import tap_products


def fixed_size(module: Any) -> tuple[int, int] | None:
    """The only image size of a backbone with relative positions."""
    if not module.rpe:
        return None
    height, width = module.patch_embed.img_size
    return int(height), int(width)


MMPRETRAIN = "mmpretrain.models.backbones.hivit"
register_adapter(
    Adapter(
        # Zhang et al., HiViT: A Simpler and More Efficient Design of Hierarchical Vision Transformer, ICLR 2023;
        # a bias for each relative position is added to the scores
        attentions={f"{MMPRETRAIN}.Attention": intercepted("qkv")},
        taps={f"{MMPRETRAIN}.Attention": tap_products()},
        blocks=(f"{MMPRETRAIN}.BlockWithRPE",),
        # their own parameters are nothing else
        layer_scales=(f"{MMPRETRAIN}.BlockWithRPE",),
        patch_embeds=(f"{MMPRETRAIN}.PatchEmbed",),
        patch_mergings=(f"{MMPRETRAIN}.PatchMerge",),
        backbones=(f"{MMPRETRAIN}.HiViT",),
        fixed_sizes={f"{MMPRETRAIN}.HiViT": fixed_size},
    )
)
