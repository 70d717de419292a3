"""MViTv2 of mmpretrain: attention with pooled q, k and v.

Li et al., *MViTv2*, CVPR 2022::

    softmax(scale Q K^T + E) V + Q,    Q = LN(pool(q)),    E_ij = Q_i . (Rh[row_i - row_j] + Rw[column_i - column_j])

where the pools are depthwise convolutions, with strides, and R tables of relative positions. The products with the
tables stay FP.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ....quantization import QuantPolicy, register_quantized
from ..conversion import quantize_block, share_norm
from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import tap_products

pooled_attention = intercepted("qkv", normalised=True, pooled=True)


def quantize_pooled_attention(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form, with a note on the products with the tables, which mmpretrain computes by ``einsum``."""
    quantized: Any = pooled_attention(module, name, policy)
    if module.rel_pos_spatial:
        quantized.fp_notes["position_products"] = "products with position tables stay FP"
    if module.residual_pooling:
        quantized.fp_notes["residual_pooling"] = "the sum with the pooled q stays FP"
    return quantized


def quantize_scale_block(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert a block; where it changes the number of channels, its shortcut reads a norm's output too."""
    if module.proj is not None:
        share_norm(module.attn if module.dim_mul_in_attention else module.mlp)
    return quantize_block(module, name, policy)


MVIT = "mmpretrain.models.backbones.mvit"
register_adapter(
    Adapter(
        attentions={f"{MVIT}.MultiScaleAttention": quantize_pooled_attention},
        taps={f"{MVIT}.MultiScaleAttention": tap_products()},
        blocks=(f"{MVIT}.MultiScaleBlock",),
        backbones=(f"{MVIT}.MViT",),
    )
)
register_quantized(f"{MVIT}.MultiScaleBlock")(quantize_scale_block)
