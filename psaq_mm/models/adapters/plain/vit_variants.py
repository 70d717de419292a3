"""Transformers of mmpretrain with the attention of its ViT: DeiT III, reversible ViT and T2T-ViT."""

from __future__ import annotations

from ..conversion import NormOrder
from ..declaration import Adapter, register_adapter

register_adapter(
    Adapter(
        # Touvron et al., DeiT III, ECCV 2022. mmpretrain's block applies its first norm before the attention and
        # again before the FFN, where the paper has a second one. One gamma cannot contain the scales of two layers.
        blocks=("mmpretrain.models.backbones.deit3.DeiT3TransformerEncoderLayer",),
        norm_order=NormOrder.POST,
        backbones=("mmpretrain.models.backbones.deit3.DeiT3",),
    )
)
register_adapter(
    Adapter(
        # Mangalam et al., Reversible Vision Transformers, CVPR 2022: y1 = x1 + attention(x2), y2 = x2 + FFN(y1).
        # Yuan et al., Tokens-to-Token ViT, ICCV 2021: before the transformer, two layers on overlapping patches.
        blocks=(
            "mmpretrain.models.backbones.revvit.RevTransformerEncoderLayer",
            "mmpretrain.models.backbones.t2t_vit.T2TTransformerLayer",
        ),
        backbones=(
            "mmpretrain.models.backbones.revvit.RevVisionTransformer",
            "mmpretrain.models.backbones.t2t_vit.T2T_ViT",
        ),
    )
)
