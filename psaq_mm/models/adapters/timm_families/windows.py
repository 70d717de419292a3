"""timm's SwinV2 by C. Reich, MaxViT and CoAtNet, GCViT, NesT and SAM's ViT: attention in windows, with position biases.

MaxViT (Tu et al., ECCV 2022) alternates windows and grids, CoAtNet (Dai et al., NeurIPS 2021) attends globally. In
GCViT (Hatamizadeh et al., ICML 2023) every other block takes q from a summary of the whole image. NesT: Zhang et al.,
AAAI 2022. SAM: Kirillov et al., ICCV 2023, whose position bias is made of products of q with tables, by einsum, in FP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..conversion import NormOrder
from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import intercepted
from ..product_taps import heads_then_windows, tap_products
from ..windows.regions import tap_timm_block, tap_windows, window_regions

CR = "timm.models.swin_transformer_v2_cr."
MAXVIT = "timm.models.maxxvit."
GCVIT = "timm.models.gcvit."
NEST = "timm.models.nest."
SAM = "timm.models.vision_transformer_sam."


def tap_sam_block(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the attention of a block of SAM's ViT: in windows, for which the block pads, or global."""

    def regions_of(x: Tensor) -> tuple[int, Tensor, torch.device]:
        rows, columns = x.shape[1:3]
        side = module.window_size or (rows, columns)
        return x.shape[0], window_regions(rows, columns, side, 0), x.device

    return tap_windows(module, module.attn, regions_of, f"{name}.attn", sink)


register_adapter(
    Adapter(
        attentions={
            f"{MAXVIT}Attention2d": intercepted("qkv", transposed=True, constants=("rel_pos",)),
            f"{MAXVIT}AttentionCl": intercepted("qkv", constants=("rel_pos",)),
            f"{GCVIT}WindowAttentionGlobal": intercepted("qkv", normalised=True, constants=("rel_pos",)),
            f"{NEST}Attention": intercepted("qkv"),
            f"{SAM}Attention": intercepted("qkv", normalised=True),
        },
        taps={
            f"{MAXVIT}Attention2d": tap_products(transposed=True),
            f"{MAXVIT}AttentionCl": tap_products(),
            f"{GCVIT}WindowAttentionGlobal": tap_products(),
            f"{NEST}Attention": tap_products(tokens=heads_then_windows),
            f"{SAM}Block": tap_sam_block,
        },
        blocks=(
            f"{MAXVIT}TransformerBlock2d",
            f"{MAXVIT}PartitionAttentionCl",
            f"{MAXVIT}PartitionAttention2d",
            f"{GCVIT}GlobalContextVitBlock",
            f"{NEST}TransformerLayer",
            f"{SAM}Block",
        ),
        layer_scales=(f"{GCVIT}LayerScale",),
    )
)
register_adapter(
    Adapter(
        attentions={
            f"{CR}WindowMultiHeadAttention": intercepted("qkv", normalised=True, constants=("meta_mlp",)),
        },
        taps={f"{CR}SwinTransformerV2CrBlock": tap_timm_block},
        blocks=(f"{CR}SwinTransformerV2CrBlock",),
        norm_order=NormOrder.POST,
        patch_mergings=(f"{CR}PatchMerging",),
    )
)
