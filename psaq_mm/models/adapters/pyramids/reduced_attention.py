"""torch's attention to a smaller map, as SegFormer (mmseg), PVT (mmdet) and Twins (mmseg) build it.

Wang et al., *Pyramid Vision Transformer*, ICCV 2021: keys and values come from a map that a convolution has made
smaller by ``sr_ratio`` along each side::

    softmax(scale q(x) k(y)^T) v(y),    y = LN(conv(x))

torch's module calls its packed projection functionally, so quantizers and hooks on it do not run. Both the quantized
form and the tap therefore compute the attention step by step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....quantization import QuantLinear, QuantPolicy, convert_child
from ..conversion import convert_with_output, inline_sum, set_norm_input
from ..declaration import Sink
from ..decomposed import DecomposedAttention, output_quantizer
from ..plain.torch_attention import FLOAT, QuantTorchAttention, is_plain
from ..product_taps import tap_steps

PARTS = ("kv_proj", "q_proj")


def tap_reduced_attention(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap an attention with spatial reduction: while tapped, it computes step by step with the same parameters."""
    if not supported(module):
        return []
    steps = QuantReducedAttention.from_module(module, name, FLOAT)
    return tap_steps(module, steps, steps.attn.out_proj, name, sink, prefix)


class QuantCrossAttention(DecomposedAttention):
    """``torch.nn.MultiheadAttention`` from one sequence to another, batch first, with quantizers on its operands.

    The packed projection becomes two layers, because their inputs differ: ``q_proj``, and ``kv_proj`` for k and v side
    by side. Both are saved as one, under torch's keys. The parameters are copies of parts of the packed ones.
    """

    kv_proj: nn.Module
    q_proj: nn.Module
    out_proj: nn.Module

    @classmethod
    def from_module(cls, module: nn.MultiheadAttention, name: str, policy: QuantPolicy) -> QuantCrossAttention:
        """The quantized sibling.

        Args:
            module: The float attention, with one packed projection and no bias tokens.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        self.adopt(module, module.head_dim**-0.5, nn.Dropout(module.dropout))
        # k and v first: the norm before the block's attention also feeds the reduction, so q's layer must not be taken
        # for the one layer behind it.
        for key, part in zip(PARTS, (slice(module.embed_dim, None), slice(module.embed_dim)), strict=True):
            setattr(self, key, convert_with_output(_rows(module, part), f"{name}.{key}", policy))
        self.out_proj = convert_with_output(module.out_proj, f"{name}.out_proj", policy)
        self.add_products(name, policy, "q_proj, kv_proj", output_quantizer(self.q_proj))
        self._register_state_dict_hook(_join_keys)
        return self.train(module.training)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention of ``query``, ``(b, n, channels)``, to ``key``, ``(b, m, channels)``; shape of ``query``."""
        q = self.q_proj(query).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv_proj(key).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out_proj(self.attend(q, k, v))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in ("weight", "bias"):
            packed = state_dict.pop(f"{prefix}in_proj_{key}", None)
            if packed is not None:
                width = len(packed) // 3
                state_dict[f"{prefix}q_proj.{key}"], state_dict[f"{prefix}kv_proj.{key}"] = packed.split(
                    (width, 2 * width)
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rows(module: Any, part: slice) -> nn.Linear:
    """Some rows of a packed projection, as a layer."""
    weight, bias = module.in_proj_weight, module.in_proj_bias
    layer = nn.Linear(weight.shape[1], len(weight[part]), bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach()[part].clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach()[part].clone(), requires_grad=bias.requires_grad)
    return layer.train(module.training)


def _join_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Save the two projections as the packed one."""
    for key in ("weight", "bias"):
        parts = [state_dict.pop(f"{prefix}{name}.{key}", None) for name in reversed(PARTS)]
        if all(part is not None for part in parts):
            state_dict[f"{prefix}in_proj_{key}"] = torch.cat(parts)


class QuantReducedAttention(nn.Module):
    """The library's attention with spatial reduction around a decomposed form of torch's."""

    attn: QuantTorchAttention | QuantCrossAttention
    fp_notes: dict[str, str]
    sr_ratio: int
    sr: nn.Module
    norm: nn.Module
    proj_drop: nn.Module
    dropout_layer: nn.Module

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantReducedAttention:
        """The quantized sibling; shares the parameters other than those of the packed projection.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        self.sr_ratio = module.sr_ratio
        form: Any = QuantCrossAttention if self.sr_ratio > 1 else QuantTorchAttention
        self.attn = form.from_module(module.attn, f"{name}.attn", policy)
        if self.sr_ratio > 1:
            self.sr = convert_child(module.sr, f"{name}.sr", policy)
            self.norm = module.norm
            if isinstance(self.norm, nn.LayerNorm) and isinstance(self.attn.kv_proj, QuantLinear):
                set_norm_input(self.attn.kv_proj, f"{name}.attn.kv_proj", policy)
        self.proj_drop, self.dropout_layer = module.proj_drop, module.dropout_layer
        self.fp_notes = {"residual_sum": inline_sum(module, policy)}
        return self.train(module.training)

    def forward(self, x: Tensor, hw_shape: tuple[int, int], identity: Tensor | float | None = None) -> Tensor:
        """``identity + attention``.

        Args:
            x: ``(b, h * w, channels)``.
            hw_shape: Height and width of the map, in tokens.
            identity: ``x`` where it is not given.

        Returns:
            The shape of ``x``.
        """
        identity = x if identity is None else identity
        if self.sr_ratio > 1:
            reduced = self.sr(x.transpose(1, 2).unflatten(2, tuple(hw_shape)).contiguous())
            out = self.attn(x, self.norm(reduced.flatten(2).transpose(1, 2).contiguous()))
        else:
            out = self.attn(x, x, x)
        return identity + self.dropout_layer(self.proj_drop(out))


def supported(module: Any) -> bool:
    """Whether the attention is batch first, with one packed projection and no bias or zero tokens (all configs)."""
    return module.batch_first and is_plain(module.attn)


def quantize_reduced_attention(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form, or the float module itself where torch's attention in it has extra parts (rare)."""
    return QuantReducedAttention.from_module(module, name, policy) if supported(module) else module
