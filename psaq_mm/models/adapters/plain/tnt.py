"""TNT of mmpretrain, Transformer in Transformer: attention among the pixels of a patch, then among the patches."""

from __future__ import annotations

from typing import Any

from ..declaration import Adapter, register_adapter


def fixed_size(module: Any) -> tuple[int, int]:
    """The only image size that ``PixelEmbed`` takes."""
    height, width = module.img_size
    return int(height), int(width)


MMPRETRAIN = "mmpretrain.models.backbones.tnt"
register_adapter(
    Adapter(
        # Han et al., Transformer in Transformer, NeurIPS 2021. Both attentions are mmcv's MultiheadAttention.
        blocks=(f"{MMPRETRAIN}.TransformerBlock",),
        patch_embeds=(f"{MMPRETRAIN}.PixelEmbed",),
        backbones=(f"{MMPRETRAIN}.TNT",),
        fixed_sizes={f"{MMPRETRAIN}.PixelEmbed": fixed_size},
        # its sequences are the pixels of one patch
        unprefixed={f"{MMPRETRAIN}.TnTLayer": ("inner_block",)},
    )
)
