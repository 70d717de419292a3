"""timm's PVTv2, Twins, Next-ViT, MViTv2, MetaFormer and Hiera: attention in stages, to fewer keys or in windows.

PVTv2: Wang et al., CVMJ 2022. Twins: Chu et al., NeurIPS 2021. Next-ViT: Li et al., 2022. MetaFormer: Yu et al., TPAMI
2024. MViTv2 (Li et al., CVPR 2022) pools q, k and v behind their projection and adds products of q with position tables
to the scores, which stay FP. Hiera (Ryali et al., ICML 2023) and the image encoder of SAM 2 pool q only.
"""

from __future__ import annotations

from ..conversion import NormOrder
from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import heads_then_windows, tap_products, windows_then_heads

TWINS = "timm.models.twins."
MVIT = "timm.models.mvitv2."
HIERA = "timm.models.hiera.MaskUnitAttention"
SAM2 = "timm.models.hieradet_sam2."
REDUCED = ("timm.models.pvt_v2.Attention", f"{TWINS}GlobalSubSampleAttn")

register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(REDUCED, intercepted("q", "kv")),
            f"{TWINS}LocallyGroupedAttn": intercepted("qkv"),
            "timm.models.nextvit.EfficientAttention": intercepted("q", "k", "v"),
            "timm.models.metaformer.Attention": intercepted("qkv"),
            f"{MVIT}MultiScaleAttention": intercepted("qkv", normalised=True),
            f"{MVIT}MultiScaleAttentionPoolFirst": intercepted("q", "k", "v"),
            HIERA: intercepted("qkv", normalised=True),
            f"{SAM2}MultiScaleAttention": intercepted("qkv", normalised=True),
        },
        taps={
            **dict.fromkeys(REDUCED, tap_products()),
            f"{TWINS}LocallyGroupedAttn": tap_products(tokens=windows_then_heads),
            "timm.models.nextvit.EfficientAttention": tap_products(),
            "timm.models.metaformer.Attention": tap_products(),
            f"{MVIT}MultiScaleAttention": tap_products(),
            f"{MVIT}MultiScaleAttentionPoolFirst": tap_products(),
            HIERA: tap_products(tokens=heads_then_windows),
            f"{SAM2}MultiScaleAttention": tap_products(),
        },
        # Several layers read the output of one norm.
        blocks=(
            "timm.models.pvt_v2.Block",
            f"{TWINS}Block",
            "timm.models.nextvit.NextTransformerBlock",
            "timm.models.metaformer.MetaFormerBlock",
            f"{MVIT}MultiScaleBlock",
            "timm.models.hiera.HieraBlock",
            f"{SAM2}MultiScaleBlock",
        ),
        norm_order=NormOrder.POST,
    )
)
