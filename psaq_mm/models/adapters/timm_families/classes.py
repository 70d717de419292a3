"""timm's CaiT, VOLO, ConViT, CrossViT and TNT: attention with a class token of its own, heads that talk, or two scales.

CaiT (Touvron et al., *Going deeper with Image Transformers*, ICCV 2021) mixes the heads before and behind the softmax
by linear layers, ``W_w softmax(W_l (q k^T / sqrt(d))) v``; the left operand of the second product is then no softmax
output. In its last blocks, as in XCiT's and VOLO's, only the class token asks.

VOLO (Yuan et al., *VOLO: Vision Outlooker for Visual Recognition*, TPAMI 2022) computes the weights of its outlook
attention by a linear layer instead of a product.

ConViT (d'Ascoli et al., *ConViT*, ICML 2021) mixes the softmax output with one of positions:
``((1 - s(g)) softmax(q k^T / sqrt(d)) + s(g) softmax(P)) v``.
"""

from __future__ import annotations

from typing import Any

from ..conversion import NormOrder
from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import intercepted
from ..product_taps import tap_products

CAIT = "timm.models.cait."
VOLO = "timm.models.volo."
CONVIT = "timm.models.convit."
TNT = "timm.models.tnt.Attention"

_plain = tap_products()


def tap_outer(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap TNT's attention among patches, not that among the pixels of one."""
    return [] if name.endswith("attn_in") else _plain(module, name, sink, prefix)


register_adapter(
    Adapter(
        attentions={
            f"{CAIT}TalkingHeadAttn": intercepted("qkv", softmax=False),
            f"{CAIT}ClassAttn": intercepted("q", "k", "v"),
            f"{VOLO}Attention": intercepted("qkv"),
            f"{VOLO}ClassAttention": intercepted("q", "kv"),
            f"{CONVIT}GPSA": intercepted("qk", "v", calls=("scores", "av"), constants=("pos_proj",)),
            f"{CONVIT}MHSA": intercepted("qkv"),
            "timm.models.crossvit.CrossAttention": intercepted("wq", "wk", "wv"),
            TNT: intercepted("qk", "v", calls=("scores", "av")),
        },
        taps={
            # the class token comes behind these blocks
            f"{CAIT}TalkingHeadAttn": tap_products(prefixed=False),
            f"{VOLO}Attention": tap_products(prefixed=False),
            f"{CONVIT}GPSA": tap_products(prefixed=False),
            f"{CONVIT}MHSA": tap_products(),
            TNT: tap_outer,
        },
        blocks=(f"{CAIT}LayerScaleBlock", f"{VOLO}Transformer"),
        layer_scales=(f"{CAIT}LayerScaleBlock", f"{CAIT}LayerScaleBlockClassAttn"),
    )
)
register_adapter(
    Adapter(
        # Several layers read the output of one norm.
        blocks=(
            f"{CAIT}LayerScaleBlockClassAttn",
            f"{VOLO}ClassBlock",
            f"{VOLO}Outlooker",
            f"{CONVIT}Block",
            "timm.models.crossvit.CrossAttentionBlock",
            "timm.models.tnt.Block",
        ),
        norm_order=NormOrder.POST,
    )
)
