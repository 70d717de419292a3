"""SegFormer's MixVisionTransformer of mmseg.

Xie et al., *SegFormer*, NeurIPS 2021: attention with spatial reduction, and a feed-forward part of convolutions (one of
them depthwise) instead of position embeddings.
"""

from __future__ import annotations

from ..declaration import Adapter, register_adapter
from .reduced_attention import quantize_reduced_attention, tap_reduced_attention

# also the attention of mmseg's Twins, which inherits it
ATTENTION = "mmseg.models.backbones.mit.EfficientMultiheadAttention"
register_adapter(
    Adapter(
        attentions={ATTENTION: quantize_reduced_attention},
        taps={ATTENTION: tap_reduced_attention},
        blocks=("mmseg.models.backbones.mit.TransformerEncoderLayer",),
        backbones=("mmseg.models.backbones.mit.MixVisionTransformer",),
    )
)
