"""Global attention with one layer for q, k and v, as mmpretrain and timm write it: ViT and DeiT."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ....quantization import QuantPolicy, convert_child
from ..conversion import NormOrder, convert_with_output, inline_sum
from ..declaration import Adapter, Sink, register_adapter
from ..decomposed import DecomposedAttention, output_quantizer
from ..taps import sequence_tokens


def tap_mmpretrain_attention(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap mmpretrain's ``MultiheadAttention``."""
    # Only T2T's token transformer has the shortcut; there the class token is not in the sequence yet.
    prefix = 0 if module.v_shortcut else prefix

    def collect(_: nn.Module, args: tuple) -> None:
        sink(sequence_tokens(args[0], module.num_heads, name, prefix))

    return [module.proj.register_forward_pre_hook(collect)]


def tap_timm_attention(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap timm's ``Attention``, before the norm and the gate that some models have there."""

    def collect(_: nn.Module, args: tuple) -> None:
        sink(sequence_tokens(args[0], module.num_heads, name, prefix))

    first = module.norm if hasattr(module, "norm") else module.proj
    return [first.register_forward_pre_hook(collect)]


class QuantMultiheadAttention(DecomposedAttention):
    """mmpretrain's ``MultiheadAttention`` in decomposed form, with quantizers on its operands."""

    qkv: nn.Module
    proj: nn.Module
    proj_drop: nn.Module
    gamma1: nn.Module
    out_drop: nn.Module

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantMultiheadAttention:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        scale = module.head_dims**-0.5
        if isinstance(module.scaled_dot_product_attention, functools.partial):
            # With a qk_scale of its own mmpretrain divides by head_dims ** -0.5: the model was trained that way.
            scale = 1 / module.scaled_dot_product_attention.keywords["scale"]
        self.adopt(module, scale, nn.Dropout(module.attn_drop))
        self.qkv = convert_with_output(module.qkv, f"{name}.qkv", policy)
        self.proj = convert_with_output(module.proj, f"{name}.proj", policy)
        self.proj_drop, self.gamma1, self.out_drop = module.proj_drop, module.gamma1, module.out_drop
        self.v_shortcut = module.v_shortcut
        self.add_products(name, policy, "qkv", output_quantizer(self.qkv))
        if self.v_shortcut:
            self.fp_notes["value_shortcut"] = inline_sum(module, policy)
        return self.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention, ``(b, n, channels)`` to the same or, with a shortcut from v, to other channels."""
        q, k, v = self.split(self.qkv(x))
        x = self.out_drop(self.gamma1(self.proj_drop(self.proj(self.attend(q, k, v)))))
        return v.squeeze(1) + x if self.v_shortcut else x


class QuantAttention(DecomposedAttention):
    """timm's ``Attention`` in decomposed form, with quantizers on its operands.

    Where q and k are normalised, every scheme quantizes them behind the norms: the operands of the first product are
    then not the projection's output.
    """

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    gate: nn.Module | None
    proj: nn.Module
    proj_drop: nn.Module

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantAttention:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        self.adopt(module, module.scale, module.attn_drop)
        self.qkv = convert_with_output(module.qkv, f"{name}.qkv", policy)
        self.proj = convert_with_output(module.proj, f"{name}.proj", policy)
        self.q_norm, self.k_norm, self.proj_drop = module.q_norm, module.k_norm, module.proj_drop
        # not every version of timm has the two
        self.norm = getattr(module, "norm", nn.Identity())
        gate = getattr(module, "gate", None)
        self.gate = None if gate is None else convert_child(gate, f"{name}.gate", policy)
        normalised = not isinstance(self.q_norm, nn.Identity)
        self.add_products(name, policy, "qkv", output_quantizer(self.qkv), normalised)
        if gate is not None:
            self.fp_notes["gate_product"] = "the gate is applied in FP"
        return self.train(module.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Self-attention.

        Args:
            x: ``(b, n, channels)``.
            attn_mask: Added to the scores, or of booleans, True where a pair may attend to each other; it
                broadcasts to ``(b, heads, n, n)``.
            is_causal: Whether tokens attend only to themselves and to earlier ones; a mask is then ignored.

        Returns:
            ``(b, n, channels)``.
        """
        q, k, v = self.split(self.qkv(x))
        if is_causal:
            attn_mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, -torch.inf)
            attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
        merged = self.norm(self.attend(self.q_norm(q), self.k_norm(k), v, attn_mask))
        if self.gate is not None:
            merged = merged * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(merged))


MMPRETRAIN = "mmpretrain.models.utils.attention.MultiheadAttention"
# its place since timm 1.0.20, and the one before
TIMM = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")
register_adapter(
    Adapter(
        attentions={
            MMPRETRAIN: QuantMultiheadAttention.from_module,
            **dict.fromkeys(TIMM, QuantAttention.from_module),
        },
        taps={MMPRETRAIN: tap_mmpretrain_attention, **dict.fromkeys(TIMM, tap_timm_attention)},
        blocks=(
            "mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer",
            "timm.models.vision_transformer.Block",
        ),
        layer_scales=(
            "mmcv.cnn.bricks.scale.LayerScale",
            "mmpretrain.models.utils.layer_scale.LayerScale",
            "timm.layers.layer_scale.LayerScale",
            "timm.models.vision_transformer.LayerScale",
        ),
        backbones=(
            "mmpretrain.models.backbones.vision_transformer.VisionTransformer",
            "mmpretrain.models.backbones.deit.DistilledVisionTransformer",
        ),
    )
)
register_adapter(Adapter(blocks=("timm.models.vision_transformer.ResPostBlock",), norm_order=NormOrder.POST))
