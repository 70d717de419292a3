"""timm's BEiT, EVA and other plain transformers with attention classes of their own.

BEiT and EVA keep the biases of q and v outside their projection, ``qkv = x W^T + (b_q, 0, b_v)``, and use the layer's
weight functionally. Both have an option by which the layer is called and the biases are added behind it, which is the
same sum; the quantized form sets it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ....quantization import QuantPolicy
from ..conversion import NormOrder
from ..declaration import Adapter, register_adapter
from ..intercepted import intercepted
from ..product_taps import tap_products

FUSED = intercepted("qkv", "q_proj", normalised=True)
# v, too, is no longer the projection's output where biases are added behind it
SEPARATE = intercepted("qkv", normalised=True, pooled=True)


def quantize_biased(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form of an attention whose biases of q and v may stand outside the projection."""
    if module.q_bias is None:
        return FUSED(module, name, policy)
    module.qkv_bias_separate = True
    module = SEPARATE(module, name, policy)
    module.fp_notes |= dict.fromkeys(("q_bias", "v_bias"), "added behind the projection, in FP")
    return module


BIASED = ("timm.models.beit.Attention", "timm.models.eva.EvaAttention")
NORMALISED = (
    "timm.layers.attention.AttentionRope",
    "timm.models.vision_transformer_relpos.RelPosAttention",
    "timm.models.gemma4_vit.Gemma4Attention",
)
register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(BIASED, quantize_biased),
            NORMALISED[0]: intercepted("qkv", "q_proj", normalised=True),
            NORMALISED[1]: intercepted("qkv", normalised=True, constants=("rel_pos",)),
            NORMALISED[2]: intercepted("q_proj", normalised=True),
        },
        taps=dict.fromkeys((*BIASED, *NORMALISED), tap_products()),
        blocks=(
            "timm.models.beit.Block",
            "timm.models.vision_transformer_relpos.RelPosBlock",
        ),
        # their factors gamma_1 and gamma_2
        layer_scales=("timm.models.beit.Block", "timm.models.eva.EvaBlock"),
    )
)
register_adapter(
    Adapter(
        blocks=(
            # Several layers read the output of one norm: q, k and v, and two of a gated MLP.
            "timm.models.eva.EvaBlock",
            "timm.models.deepseek_vit.DeepseekVitBlock",
            "timm.models.eva.EvaBlockPostNorm",
            "timm.models.vision_transformer_relpos.ResPostRelPosBlock",
        ),
        norm_order=NormOrder.POST,
    )
)


DIFFERENCE = intercepted("qkv", "in_proj", calls=("qk", "av", "qk2", "av2"), normalised=True)


def quantize_differential(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form of ``(softmax(q_1 k_1^T / sqrt(d)) - lambda softmax(q_2 k_2^T / sqrt(d))) v``.

    Ye et al., *Differential Transformer*, ICLR 2025. With torch's fused attention timm computes two attentions, else
    the difference times v. The quantized form always takes the first way, so that the keys of its state do not depend
    on a setting of timm.
    """
    module.fused_attn = True
    return DIFFERENCE(module, name, policy)


# Blocks that compute attention and MLP side by side, from one projection (ViT-22B); the block is the attention.
DIFFERENTIAL = ("timm.layers.diff_attention.DiffAttention", "timm.models.vision_transformer.DiffParallelScalingBlock")
PARALLEL = "timm.models.vision_transformer.ParallelScalingBlock"
register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(DIFFERENTIAL, quantize_differential),
            PARALLEL: intercepted("in_proj", normalised=True),
        },
        # of the first of the two attentions
        taps=dict.fromkeys((*DIFFERENTIAL, PARALLEL), tap_products()),
    )
)

# Pooling by attention: of learned queries (SigLIP), which yields no patches, and of the mean (CLIP's ResNets).
LATENT = "timm.layers.attention_pool.AttentionPoolLatent"
MEAN = ("timm.layers.attention_pool2d.AttentionPool2d", "timm.layers.attention_pool2d.RotAttentionPool2d")
register_adapter(
    Adapter(
        attentions={
            LATENT: intercepted("q", "kv", normalised=True),
            **dict.fromkeys(MEAN, intercepted("qkv", "q", "k", "v", normalised=True)),
        },
        # the mean stands first
        taps=dict.fromkeys(MEAN, tap_products(tokens=lambda merged: merged.mean(1)[:, 1:], prefixed=False)),
    )
)
