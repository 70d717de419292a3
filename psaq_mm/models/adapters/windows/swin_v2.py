"""SwinV2 of mmpretrain and timm: cosine attention in windows, a continuous position bias, norms behind the layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....quantization import Quantizer, QuantPolicy, convert_child
from ..conversion import NormOrder, convert_with_output
from ..declaration import Adapter, register_adapter
from ..decomposed import note
from .regions import QuantWindows, tap_timm_block

MAX_LOGIT_SCALE = math.log(1 / 0.01)
TABLES = ("relative_coords_table", "relative_position_index")
CONSTANT_BIAS = "the position bias is a constant of the window size, computed in FP"


class QuantWindowMSAV2(QuantWindows):
    """``WindowMSAV2`` (timm: V2's ``WindowAttention``) in decomposed form, with quantizers on its operands.

    Liu et al., *Swin Transformer V2*, CVPR 2022::

        softmax(tau q k^T / (|q| |k|) + B) v,    tau = exp(min(logit_scale, log 100)),    B = 16 sigmoid(MLP(positions))

    with one tau a head. q and k are quantized behind their normalisation, in [-1, 1], and tau multiplies their product
    in FP: on q, heads with different tau would share one range.

    The MLP's input is a table of constant coordinates, so B does not depend on the image, and engines compute it once:
    its layers stay FP. So do the biases of q and v, which the hosts keep outside the projection (k has none).
    """

    qkv: nn.Module
    cpb_mlp: nn.Sequential
    logit_scale: nn.Parameter
    qkv_output_quantizer: Quantizer | None
    relative_coords_table: Tensor
    q_bias: nn.Parameter | None
    v_bias: nn.Parameter | None

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantWindowMSAV2:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        self.adopt(module, 1.0, module.attn_drop)
        self.window_size = module.window_size
        self.logit_scale, self.q_bias, self.v_bias = module.logit_scale, module.q_bias, module.v_bias
        self.adopt_buffers(module, *TABLES)
        self.cpb_mlp = module.cpb_mlp
        for layer in self.cpb_mlp:
            if isinstance(layer, nn.Linear):
                tensors = ("weight", "input") if layer.bias is None else ("weight", "bias", "input")
                note(layer, dict.fromkeys(tensors, CONSTANT_BIAS))
        self.qkv = convert_child(module.qkv, f"{name}.qkv", policy)
        self.proj = convert_with_output(module.proj, f"{name}.proj", policy)
        self.proj_drop = module.proj_drop
        # The projection's output has its bias only here, so its quantizer is not the layer's.
        specs = None if policy.scheme == "deploy" else policy.specs(f"{name}.qkv")
        key = "qkv_output_quantizer"
        setattr(
            self, key, Quantizer(specs.activation, f"{name}.{key}").to(module.proj.weight.device) if specs else None
        )
        self.add_products(name, policy, "qkv", self.qkv_output_quantizer, normalised=True)
        self.fp_notes |= {"logit_scale": "the scale of the cosine stays FP", "position_bias": CONSTANT_BIAS}
        if self.q_bias is not None:
            self.fp_notes |= dict.fromkeys(("q_bias", "v_bias"), "biases stay FP")
        return self.train(module.training)

    def project(self, x: Tensor) -> Tensor:
        """See base class."""
        qkv = self.qkv(x)
        if self.q_bias is not None and self.v_bias is not None:
            qkv = qkv + torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        return qkv if self.qkv_output_quantizer is None else self.qkv_output_quantizer(qkv)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """``tau q k^T / (|q| |k|)``, ``(b, heads, n, n)``."""
        cosine = self.qk(F.normalize(q, dim=-1), F.normalize(k, dim=-1).transpose(-2, -1))
        return cosine * self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def position_bias(self) -> Tensor:
        """See base class."""
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        return 16 * torch.sigmoid(self.bias_of(table))


MMPRETRAIN_ATTENTION = "mmpretrain.models.utils.attention.WindowMSAV2"
MMPRETRAIN = "mmpretrain.models.backbones.swin_transformer_v2.SwinTransformerV2"
register_adapter(
    Adapter(
        attentions=dict.fromkeys(
            (MMPRETRAIN_ATTENTION, "timm.models.swin_transformer_v2.WindowAttention"),
            QuantWindowMSAV2.from_module,
        ),
        # mmpretrain puts V2's attention into V1's ShiftWindowMSA, whose tap swin.py declares
        taps={"timm.models.swin_transformer_v2.SwinTransformerV2Block": tap_timm_block},
        blocks=(
            "mmpretrain.models.backbones.swin_transformer_v2.SwinBlockV2",
            "timm.models.swin_transformer_v2.SwinTransformerV2Block",
        ),
        norm_order=NormOrder.POST,
        patch_mergings=(
            "mmpretrain.models.utils.embed.PatchMerging",
            "timm.models.swin_transformer_v2.PatchMerging",
        ),
        backbones=(MMPRETRAIN,),
        # mmpretrain drops the two tables from every state dict that it loads; a quantized model loads its own again
        constants={MMPRETRAIN_ATTENTION: TABLES},
        hidden_keys={MMPRETRAIN: ("_quantizer.", *TABLES)},
    )
)
