"""Layers of timm's that compute what torch's do, convolutions with a norm behind them, and factors that stay FP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....quantization import QuantPolicy, quantize_conv2d, quantize_linear, register_pairs, register_quantized
from ..declaration import Adapter, register_adapter

# Its forward differs only in TorchScript.
register_quantized("timm.layers.linear.Linear")(quantize_linear)

register_adapter(
    Adapter(
        layer_scales=(
            "timm.layers.layer_scale.LayerScale2d",
            "timm.models.efficientformer.LayerScale2d",
            "timm.models.fastvit.LayerScale2d",
            "timm.models.hgnet.LearnableAffineBlock",
            "timm.models.metaformer.Scale",
            "timm.models.mlp_mixer.Affine",
            "timm.models.swiftformer.LayerScale2d",
        ),
    )
)


class PaddedConv2d(nn.Module):
    """A convolution whose padding depends on the size of its input, as TensorFlow's ``SAME``.

    It is padded so that ``n`` positions give ``ceil(n / stride)``; an odd number of zeros has one more at the end.
    The weight is saved under the float layer's key.
    """

    def __init__(self, conv: nn.Module, module: Any) -> None:
        super().__init__()
        self.conv = conv
        self.geometry = tuple(zip(module.kernel_size, module.stride, module.dilation, strict=True))
        self._register_state_dict_hook(_rename)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in, H, W)`` to ``(batch, out, ceil(H / stride), ceil(W / stride))``."""
        pads: list[int] = []
        for length, (kernel, stride, dilation) in zip(reversed(x.shape[2:]), reversed(self.geometry), strict=True):
            total = max((-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
            pads += [total // 2, total - total // 2]
        result: Tensor = self.conv(torch.nn.functional.pad(x, pads))
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [one for one in state_dict if one.startswith(prefix)]:
            state_dict[f"{prefix}conv.{key[len(prefix) :]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rename(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Save the convolution's tensors as those of the module."""
    for key in [one for one in state_dict if one.startswith(f"{prefix}conv.")]:
        state_dict[prefix + key[len(prefix) + len("conv.") :]] = state_dict.pop(key)


@register_quantized("timm.layers.conv2d_same.Conv2dSame")
def quantize_padded(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form of timm's ``Conv2dSame``."""
    return PaddedConv2d(quantize_conv2d(module, name, policy), module)


@register_pairs(
    "timm.layers.conv_bn_act.ConvNormAct",
    "timm.models.efficientformer_v2.ConvNorm",
)
def conv_bn(module: Any) -> list[tuple[str, str]]:
    """The convolution, and its norm ``bn``."""
    return [("conv", "bn")]


@register_pairs("timm.models.efficientvit_mit.ConvNormAct", "timm.models.nextvit.ConvNormAct")
def conv_norm(module: Any) -> list[tuple[str, str]]:
    """The convolution, and its norm ``norm``."""
    return [("conv", "norm")]


@register_pairs("timm.models.levit.ConvNorm", "timm.models.levit.LinearNorm")
def linear_bn(module: Any) -> list[tuple[str, str]]:
    """The layer ``linear``, which may be a convolution, and its norm."""
    return [("linear", "bn")]


BLOCKS = "timm.models._efficientnet_blocks."
RESNET = "timm.models.resnet."


@register_pairs(
    *(f"{BLOCKS}{name}" for name in ("InvertedResidual", "DepthwiseSeparableConv", "EdgeResidual", "ConvBnAct")),
    *(f"{RESNET}{name}" for name in ("BasicBlock", "Bottleneck", "ResNet")),
    *(f"timm.models.{name}" for name in ("efficientnet.EfficientNet", "mobilenetv3.MobileNetV3")),
)
def numbered(module: Any) -> list[tuple[str, str]]:
    """Each convolution of a block or stem, and the norm that is registered next, as they run."""
    names = list(module._modules)
    norms = [name for name in names if name.startswith("bn")]
    before = {norm: [name for name in names[: names.index(norm)] if name.startswith("conv")] for norm in norms}
    return [(before[norm][-1], norm) for norm in norms if before[norm]]
