"""LeViT, TinyViT and EfficientFormer of mmpretrain: attention with a learned bias for each distance of two tokens.

Graham et al., *LeViT*, ICCV 2021::

    softmax(scale q k^T + B) v,    B_ij = table[|row_i - row_j|, |column_i - column_j|]

with one table a head. TinyViT (Wu et al., ECCV 2022) computes it in windows, EfficientFormer (Li et al., NeurIPS 2022)
in the last stage alone, behind stages of pooling. The tables hold for one size of the map, so that these models take
images of one size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ....quantization import QuantLinear, QuantPolicy, register_pairs, register_quantized
from ..conversion import NormOrder, convert_children, set_norm_input
from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import InterceptedAttention, intercepted
from ..product_taps import tap_products
from ..windows.regions import tap_windows, window_regions


class TableAttention(InterceptedAttention):
    """An attention with a table of biases, quantized.

    The libraries look the biases up when the mode changes to ``eval`` and keep them as ``ab``. Here they are looked up
    where they are used, so that they follow the table when it is loaded, trained or moved to another device.
    """

    attention_biases: nn.Parameter
    attention_bias_idxs: Tensor

    @property
    def ab(self) -> Tensor:
        """The bias of every pair of tokens, ``(heads, n, m)``."""
        return self.attention_biases[:, self.attention_bias_idxs]

    @ab.setter
    def ab(self, value: Tensor) -> None:
        pass

    @ab.deleter
    def ab(self) -> None:
        pass


table_attention = intercepted("qkv", base=TableAttention)


def quantize_le_attention(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """TinyViT's attention, which has the norm before it inside."""
    quantized: Any = table_attention(module, name, policy)
    if isinstance(quantized.qkv, QuantLinear):
        set_norm_input(quantized.qkv, f"{name}.qkv", policy)
    return quantized


def tap_tiny_vit_block(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the window attention of a block of TinyViT; the block itself pads. Padding takes part in its attention."""

    def regions_of(x: Tensor) -> tuple[int, Tensor, torch.device]:
        height, width = module.img_size
        return len(x), window_regions(height, width, module.window_size, 0), x.device

    return tap_windows(module, module.attn, regions_of, f"{name}.attn", sink)


def levit_size(module: Any) -> tuple[int, int]:
    """The image size of a LeViT, whose patches have a side of 16."""
    return module.resolutions[0] * 16, module.resolutions[0] * 16


def tiny_vit_size(module: Any) -> tuple[int, int]:
    """The image size of a TinyViT."""
    return module.img_size[0], module.img_size[1]


def efficient_former_size(module: Any) -> tuple[int, int]:
    """The image size of an EfficientFormer from its attention, whose tokens have a side of 32 pixels."""
    side = 32 * math.isqrt(len(module.attention_bias_idxs))
    return side, side


LEVIT = "mmpretrain.models.backbones.levit"
TINYVIT = "mmpretrain.models.backbones.tinyvit"
EFFICIENTFORMER = "mmpretrain.models.backbones.efficientformer"


@register_quantized(f"{TINYVIT}.MLP")
def quantize_mlp(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """TinyViT's feed-forward part, which has the norm before it inside."""
    return convert_children(module, name, policy, NormOrder.PRE)


@register_pairs(f"{LEVIT}.ConvolutionBatchNorm")
def levit_conv_pairs(module: Any) -> list[tuple[str, str]]:
    """A convolution of LeViT and its norm."""
    return [("conv", "bn")]


@register_pairs(f"{LEVIT}.LinearBatchNorm")
def levit_linear_pairs(module: Any) -> list[tuple[str, str]]:
    """A Linear of LeViT and its norm, which reads all tokens of all images as one batch."""
    return [("linear", "bn")]


@register_pairs(f"{TINYVIT}.ConvBN2d")
def tiny_vit_pairs(module: Any) -> list[tuple[str, str]]:
    """A convolution of TinyViT and its norm."""
    return [("conv2d", "bn2d")]


@register_pairs(f"{EFFICIENTFORMER}.ConvMlp")
def conv_mlp_pairs(module: Any) -> list[tuple[str, str]]:
    """The two convolutions of EfficientFormer's feed-forward part and their norms."""
    return [("fc1", "norm1"), ("fc2", "norm2")]


register_adapter(
    Adapter(
        attentions={
            f"{LEVIT}.Attention": table_attention,
            f"{LEVIT}.AttentionSubsample": intercepted("q", "kv", base=TableAttention),
            "mmpretrain.models.utils.attention.LeAttention": quantize_le_attention,
            f"{EFFICIENTFORMER}.AttentionWithBias": table_attention,
        },
        taps={
            f"{LEVIT}.Attention": tap_products(),
            f"{LEVIT}.AttentionSubsample": tap_products(),
            f"{TINYVIT}.TinyViTBlock": tap_tiny_vit_block,
            f"{EFFICIENTFORMER}.AttentionWithBias": tap_products(),
        },
        blocks=(
            f"{LEVIT}.Residual",
            f"{TINYVIT}.MBConvBlock",
            f"{TINYVIT}.TinyViTBlock",
            f"{EFFICIENTFORMER}.Meta3D",
            f"{EFFICIENTFORMER}.Meta4D",
        ),
        patch_mergings=(f"{TINYVIT}.PatchMerging",),
        backbones=(f"{LEVIT}.LeViT", f"{TINYVIT}.TinyViT", f"{EFFICIENTFORMER}.EfficientFormer"),
        fixed_sizes={
            f"{LEVIT}.LeViT": levit_size,
            f"{TINYVIT}.TinyViT": tiny_vit_size,
            f"{EFFICIENTFORMER}.AttentionWithBias": efficient_former_size,
        },
    )
)
