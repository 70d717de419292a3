"""PVT and PVTv2 of mmdet.

Wang et al., *Pyramid Vision Transformer*, ICCV 2021, and *PVT v2*, Computational Visual Media 2022, which has
overlapping patches and a depthwise convolution in the feed-forward part instead of position embeddings.
"""

from __future__ import annotations

from ..declaration import Adapter, register_adapter
from .reduced_attention import quantize_reduced_attention, tap_reduced_attention

ATTENTION = "mmdet.models.backbones.pvt.SpatialReductionAttention"
register_adapter(
    Adapter(
        attentions={ATTENTION: quantize_reduced_attention},
        taps={ATTENTION: tap_reduced_attention},
        blocks=("mmdet.models.backbones.pvt.PVTEncoderLayer",),
        backbones=(
            "mmdet.models.backbones.pvt.PyramidVisionTransformer",
            "mmdet.models.backbones.pvt.PyramidVisionTransformerV2",
        ),
    )
)
