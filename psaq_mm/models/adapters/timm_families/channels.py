"""timm's XCiT, EdgeNeXt and DaViT: attention among channels.

XCiT (El-Nouby et al., *XCiT: Cross-Covariance Image Transformers*, NeurIPS 2021) and EdgeNeXt (Maaz et al., 2022)
compute ``softmax(tau q k^T) v`` for q, k and v of shape ``(d, n)``, with rows of q and k of unit length; DaViT (Ding et
al., *DaViT: Dual Attention Vision Transformers*, ECCV 2022) divides by ``sqrt(d)`` instead, or by ``sqrt(n)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..conversion import NormOrder
from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import intercepted
from ..product_taps import channels_first, tap_products
from ..windows.regions import tap_windows, window_regions

XCA = ("timm.models.xcit.XCA", "timm.models.edgenext.CrossCovarianceAttn")
DAVIT = "timm.models.davit."
CHANNELS = (f"{DAVIT}ChannelAttention", f"{DAVIT}ChannelAttentionV2")


def tap_davit_block(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the window attention of a block of DaViT, which pads its map."""

    def regions_of(x: Tensor) -> tuple[int, Tensor, torch.device]:
        return x.shape[0], window_regions(x.shape[2], x.shape[3], module.window_size, 0), x.device

    return tap_windows(module, module.attn, regions_of, f"{name}.attn", sink)


register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(XCA, intercepted("qkv", normalised=True)),
            **dict.fromkeys((*CHANNELS, f"{DAVIT}WindowAttention"), intercepted("qkv")),
        },
        taps={
            # the class token comes behind these blocks
            **dict.fromkeys((*XCA, *CHANNELS), tap_products(tokens=channels_first, prefixed=False)),
            f"{DAVIT}SpatialBlock": tap_davit_block,
        },
        blocks=(
            "timm.models.xcit.XCABlock",
            "timm.models.edgenext.SplitTransposeBlock",
            f"{DAVIT}ChannelBlock",
            f"{DAVIT}SpatialBlock",
        ),
        layer_scales=(
            "timm.models.xcit.XCABlock",
            "timm.models.xcit.ClassAttentionBlock",
            "timm.models.edgenext.SplitTransposeBlock",
            "timm.models.edgenext.ConvBlock",
        ),
    )
)
# q, k and v read the norm's output, and so does the residual sum.
register_adapter(Adapter(blocks=("timm.models.xcit.ClassAttentionBlock",), norm_order=NormOrder.POST))
