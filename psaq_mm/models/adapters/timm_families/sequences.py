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


def quantize_biased(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form of an attention whose biases of q and v may stand outside the projection."""
    biased = module.q_bias is not None
    if biased:
        module.qkv_bias_separate = True
    module = FUSED(module, name, policy)
    if biased:
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


def differential_calls(module: Any) -> tuple[str, ...]:
    """The products of timm's ``DiffAttention``: those of two attentions, or of both at once."""
    return ("qk", "av", "qk2", "av2") if module.fused_attn else ("qk", "av")


def quantize_differential(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form of ``(softmax(q_1 k_1^T / sqrt(d)) - lambda softmax(q_2 k_2^T / sqrt(d))) v``.

    Ye et al., *Differential Transformer*, ICLR 2025. Without torch's fused attention the difference is multiplied,
    which has negative values.
    """
    factory = intercepted("qkv", "in_proj", calls=differential_calls, normalised=True, softmax=module.fused_attn)
    return factory(module, name, policy)


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
