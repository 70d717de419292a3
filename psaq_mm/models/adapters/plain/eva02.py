"""EVA-02 of mmpretrain: rotary position embeddings, and the gated FFN that DINOv2's largest model has too."""

from __future__ import annotations

from typing import Any

from torch import nn

from ....quantization import QuantPolicy
from ..conversion import NormOrder, convert_children
from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import tap_products


def quantize_gated_ffn(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert mmpretrain's ``SwiGLUFFN``, ``W3 norm(silu(W1 x) * W2 x)``; EVA-02 has the norm, DINOv2 has not.

    Shazeer, *GLU Variants Improve Transformer*, 2020.
    """
    convert_children(module, name, policy, NormOrder.PRE)
    module.fp_notes = {"gate_product": "the product of the gate stays FP"}
    return module


def fixed_size(module: Any) -> tuple[int, int]:
    """The size for which a backbone was built: on another it replaces tables that a checkpoint contains."""
    height, width = module.img_size
    return int(height), int(width)


MMPRETRAIN = "mmpretrain.models.backbones.vit_eva02"
register_adapter(
    Adapter(
        attentions={
            # Fang et al., EVA-02, 2023: q and k of the patches are rotated by their positions, so both are quantized
            # behind that
            f"{MMPRETRAIN}.AttentionWithRoPE": intercepted("qkv", normalised=True),
            "mmpretrain.models.utils.swiglu_ffn.SwiGLUFFN": quantize_gated_ffn,
        },
        taps={f"{MMPRETRAIN}.AttentionWithRoPE": tap_products()},
        blocks=(f"{MMPRETRAIN}.EVA02EndcoderLayer",),
        backbones=(f"{MMPRETRAIN}.ViTEVA02",),
        fixed_sizes={f"{MMPRETRAIN}.ViTEVA02": fixed_size},
    )
)
