"""mmcv's ``MultiheadAttention``, which mmseg's ViT uses: torch's own attention with a residual sum around it.

torch's module calls its projections functionally, so quantizers and hooks on them do not run. Both the quantized form
and the tap therefore compute it step by step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....quantization import QuantPolicy
from ..conversion import convert_with_output, inline_sum
from ..declaration import Adapter, Sink, register_adapter
from ..decomposed import DecomposedAttention, output_quantizer
from ..product_taps import tap_steps

FLOAT = QuantPolicy(overrides=[{"pattern": "*", "keep_fp": True}])


def tap_mmcv_attention(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap mmcv's attention: while tapped, it computes step by step with the same parameters."""
    if not is_plain(module.attn):
        return []
    steps = QuantMmcvAttention.from_module(module, name, FLOAT)
    return tap_steps(module, steps, steps.attn.out_proj, name, sink, prefix)


class QuantTorchAttention(DecomposedAttention):
    """``torch.nn.MultiheadAttention`` in decomposed form, batch first, with quantizers on its operands.

    The packed projection is a layer of its own, ``in_proj``, whose weight and bias are saved under torch's keys.
    """

    in_proj: nn.Module
    out_proj: nn.Module

    @classmethod
    def from_module(cls, module: nn.MultiheadAttention, name: str, policy: QuantPolicy) -> QuantTorchAttention:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention, with one packed projection and no bias tokens.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        self.adopt(module, module.head_dim**-0.5, nn.Dropout(module.dropout))
        width = module.embed_dim
        packed = nn.Linear(width, 3 * width, bias=module.in_proj_bias is not None, device="meta")
        packed.weight, packed.bias = module.in_proj_weight, module.in_proj_bias
        self.in_proj = convert_with_output(packed, f"{name}.in_proj", policy)
        self.out_proj = convert_with_output(module.out_proj, f"{name}.out_proj", policy)
        self.add_products(name, policy, "in_proj", output_quantizer(self.in_proj))
        self._register_state_dict_hook(_pack_keys)
        return self.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attention.

        Args:
            query: ``(b, n, channels)``.
            key: ``(b, m, channels)``.
            value: As ``key``.
            attn_mask: ``(n, m)`` or ``(b * heads, n, m)``: added to the scores, or True where a pair may *not*
                attend to each other.
            key_padding_mask: ``(b, m)``: likewise for keys.

        Returns:
            ``(b, n, channels)``.
        """
        q, k, v = self.project(query, key, value)
        return self.out_proj(self.attend(q, k, v, *self.biases(q, attn_mask, key_padding_mask)))

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """q, k and v by heads, ``(b, heads, n or m, d)``."""
        if key is query and value is query:
            return self.split(self.in_proj(query))
        # Each input passes through all of the packed layer; only cross-attention in heads comes here.
        return tuple(self.split(self.in_proj(x))[part] for part, x in enumerate((query, key, value)))

    def biases(self, q: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> tuple[Tensor | None, ...]:
        """The two masks as summands of the scores; arguments as of :meth:`forward`."""
        if attn_mask is not None:
            attn_mask = _additive(attn_mask, q)
            attn_mask = attn_mask[None, None] if attn_mask.dim() == 2 else attn_mask.unflatten(0, (-1, self.num_heads))
        if key_padding_mask is not None:
            key_padding_mask = _additive(key_padding_mask, q)[:, None, None]
        return attn_mask, key_padding_mask

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in ("weight", "bias"):
            if f"{prefix}in_proj_{key}" in state_dict:
                state_dict[f"{prefix}in_proj.{key}"] = state_dict.pop(f"{prefix}in_proj_{key}")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _pack_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Save the packed projection under torch's keys."""
    for key in ("weight", "bias"):
        if f"{prefix}in_proj.{key}" in state_dict:
            state_dict[f"{prefix}in_proj_{key}"] = state_dict.pop(f"{prefix}in_proj.{key}")


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask.bool(), -torch.inf)


class QuantMmcvAttention(nn.Module):
    """mmcv's ``MultiheadAttention`` around a :class:`QuantTorchAttention`."""

    attn: QuantTorchAttention
    fp_notes: dict[str, str]
    proj_drop: nn.Module
    dropout_layer: nn.Module

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantMmcvAttention:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        self.batch_first = module.batch_first
        self.attn = QuantTorchAttention.from_module(module.attn, f"{name}.attn", policy)
        self.proj_drop, self.dropout_layer = module.proj_drop, module.dropout_layer
        self.fp_notes = {"residual_sum": inline_sum(module, policy)}
        return self.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As mmcv's: ``identity + attention``, ``query`` where a tensor is not given."""
        key = query if key is None else key
        value = key if value is None else value
        identity = query if identity is None else identity
        if key_pos is None and query_pos is not None and query_pos.shape == key.shape:
            key_pos = query_pos
        inputs = [
            query if query_pos is None else query + query_pos,
            key if key_pos is None else key + key_pos,
            value,
        ]
        if not self.batch_first:
            # The same tensor stays the same object: the attention then projects it once.
            turned = {id(x): x.transpose(0, 1) for x in inputs}
            inputs = [turned[id(x)] for x in inputs]
        out = self.attn(*inputs, attn_mask=attn_mask, key_padding_mask=key_padding_mask)
        out = out if self.batch_first else out.transpose(0, 1)
        return identity + self.dropout_layer(self.proj_drop(out))


def quantize_mmcv_attention(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form, or the float module itself where torch's attention in it has extra parts (rare)."""
    return QuantMmcvAttention.from_module(module, name, policy) if is_plain(module.attn) else module


def is_plain(module: nn.MultiheadAttention) -> bool:
    """Whether the attention has one packed projection and no bias or zero tokens."""
    return module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn


MMCV = "mmcv.cnn.bricks.transformer.MultiheadAttention"
register_adapter(
    Adapter(
        attentions={MMCV: quantize_mmcv_attention},
        taps={MMCV: tap_mmcv_attention},
        blocks=("mmseg.models.backbones.vit.TransformerEncoderLayer",),
        backbones=("mmseg.models.backbones.vit.VisionTransformer",),
    )
)
