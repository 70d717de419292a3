"""BEiT, BEiT v2, EVA and MAE of mmseg and mmpretrain: global attention with a bias for each relative position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....quantization import Quantizer, QuantPolicy, convert_child
from ..conversion import convert_with_output, keep_parameters
from ..declaration import Adapter, register_adapter
from ..decomposed import DecomposedAttention, output_quantizer
from ..product_taps import tap_products

BIASES = ("q_bias", "v_bias")


class QuantBEiTAttention(DecomposedAttention):
    """``BEiTAttention`` in decomposed form, with quantizers on its operands.

    Bao et al., *BEiT: BERT Pre-Training of Image Transformers*, ICLR 2022::

        softmax(scale q k^T + B) v

    B has an entry for each relative position of two patches and for those of the class token. Models with absolute
    positions (EVA) have none, and some get one that all layers share.

    The hosts add biases to q and v, not to k, and keep them outside the projection, whose weight they use
    functionally. Here the projection is called as a layer, and its biases are added behind it in FP.
    """

    qkv: nn.Module
    proj: nn.Module
    proj_drop: nn.Module
    q_bias: nn.Parameter
    v_bias: nn.Parameter
    qkv_output_quantizer: Quantizer | None
    relative_position_bias_table: nn.Parameter | None
    relative_position_index: Tensor | None

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantBEiTAttention:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        self.adopt(module, module.scale, module.attn_drop)
        self.apart = module.bias == "qv_bias"
        self.relative_position_bias_table = module.relative_position_bias_table
        # mmpretrain's is None where there is no table
        self.register_buffer("relative_position_index", module.relative_position_index)
        self.qkv_output_quantizer = None
        if self.apart:
            self.q_bias, self.v_bias = module.q_bias, module.v_bias
            self.qkv = convert_child(module.qkv, f"{name}.qkv", policy)
            # The projection's output has its biases only here, so its quantizer is not the layer's.
            specs = None if policy.scheme == "deploy" else policy.specs(f"{name}.qkv")
            if specs:
                quantizer = Quantizer(specs.activation, f"{name}.qkv_output_quantizer")
                self.qkv_output_quantizer = quantizer.to(module.proj.weight.device)
            output = self.qkv_output_quantizer
        else:
            self.qkv = convert_with_output(module.qkv, f"{name}.qkv", policy)
            output = output_quantizer(self.qkv)
        # behind the other projection, since a block takes the first for the one that reads its norm
        self.proj = convert_with_output(module.proj, f"{name}.proj", policy)
        self.proj_drop = module.proj_drop
        self.add_products(name, policy, "qkv", output)
        if self.relative_position_bias_table is not None:
            self.fp_notes["relative_position_bias_table"] = "bias tables of global attention stay FP"
        if self.apart:
            self.fp_notes |= dict.fromkeys(BIASES, "biases stay FP")
        return self.train(module.training)

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        """Self-attention.

        Args:
            x: ``(b, n, channels)``.
            rel_pos_bias: A bias that all layers share, ``(heads, n, n)``.

        Returns:
            The shape of ``x``.
        """
        qkv = self.qkv(x)
        if self.apart:
            qkv = qkv + torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        if self.qkv_output_quantizer is not None:
            qkv = self.qkv_output_quantizer(qkv)
        shared = None if rel_pos_bias is None else rel_pos_bias[None]
        return self.proj_drop(self.proj(self.attend(*self.split(qkv), self.position_bias(), shared)))

    def position_bias(self) -> Tensor | None:
        """The layer's own bias of every pair of tokens, ``(1, heads, n, n)``."""
        if self.relative_position_bias_table is None or self.relative_position_index is None:
            return None
        count = len(self.relative_position_index)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(count, count, -1)
        return bias.permute(2, 0, 1).unsqueeze(0)


def fixed_size(module: Any) -> tuple[int, int] | None:
    """The only image size of a backbone with relative positions."""
    if not getattr(module, "use_rel_pos_bias", True) and module.rel_pos_bias is None:
        return None
    height, width = module.img_size
    return int(height), int(width)


ATTENTIONS = ("mmseg.models.backbones.beit.BEiTAttention", "mmpretrain.models.utils.attention.BEiTAttention")
BLOCKS = (
    "mmseg.models.backbones.beit.BEiTTransformerEncoderLayer",
    "mmpretrain.models.backbones.beit.BEiTTransformerEncoderLayer",
)
BACKBONES = (
    "mmseg.models.backbones.beit.BEiT",
    "mmseg.models.backbones.mae.MAE",
    "mmpretrain.models.backbones.beit.BEiTViT",
)
register_adapter(
    Adapter(
        attentions={
            **dict.fromkeys(ATTENTIONS, QuantBEiTAttention.from_module),
            "mmpretrain.models.backbones.beit.RelativePositionBias": keep_parameters(
                "bias tables of global attention stay FP"
            ),
        },
        taps=dict.fromkeys(ATTENTIONS, tap_products()),
        blocks=BLOCKS,
        # their own parameters are nothing else
        layer_scales=BLOCKS,
        backbones=BACKBONES,
        fixed_sizes=dict.fromkeys(BACKBONES, fixed_size),
    )
)
