"""DaViT of mmpretrain: window attention among patches and attention among channels, in turn."""

from __future__ import annotations

from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import channels_first, tap_products

MMPRETRAIN = "mmpretrain.models.backbones.davit"
register_adapter(
    Adapter(
        # Ding et al., DaViT: Dual Attention Vision Transformers, ECCV 2022. Attention among the channels of a head:
        # softmax(scale k^T v) q^T, so the first product is that of k and v, the second gets q.
        attentions={
            f"{MMPRETRAIN}.DaViTWindowMSA": intercepted("qkv"),
            f"{MMPRETRAIN}.ChannelAttention": intercepted("qkv"),
        },
        # DaViTWindowMSA stands in ShiftWindowMSA, whose tap swin.py declares
        taps={f"{MMPRETRAIN}.ChannelAttention": tap_products(tokens=channels_first)},
        blocks=(f"{MMPRETRAIN}.SpatialBlock", f"{MMPRETRAIN}.ChannelBlock"),
        patch_mergings=(f"{MMPRETRAIN}.DaViTDownSample",),
        backbones=(f"{MMPRETRAIN}.DaViT",),
    )
)
