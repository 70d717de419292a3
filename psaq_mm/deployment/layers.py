"""Layers with stored integers, and a pair of QuantizeLinear and DequantizeLinear before each product."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ..errors import ExportError
from ..quantization import (
    QuantConv2d,
    QuantConvTranspose2d,
    Quantizer,
    QuantLinear,
    QuantMatMul,
    check_calibrated,
)
from ..quantization.matmul import equalized
from ..quantization.transforms.rotation import rotated_back
from .operands import FloatWeight, StoredWeight, activation, stored_integers


class DeployLinear(nn.Module):
    """A Linear with stored integers: ``y = x W + b``.

    The weight is stored as ``(in, out)``, because engines do not fuse a product with a transposed integer weight. The
    bias is float and has as many dimensions as the product: ONNX Runtime merges a product and a bias vector into a Gemm
    before it looks for integers, and would then multiply in float.

    Args:
        layer: A calibrated layer.
    """

    bias: Tensor | None

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        self.input, self.output = activation(layer.input_quantizer), activation(layer.output_quantizer)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        if layer.weight_quantizer is None:
            self.weight: nn.Module = FloatWeight(layer.weight.detach().T.contiguous())
        else:
            integers, scale = stored_integers(layer)
            self.weight = StoredWeight(integers.T.contiguous(), scale, axis=1)
        shift = getattr(self.input, "shift", None)
        if shift is not None:
            taken = (shift.double() @ self.weight().double()).float()
            bias = -taken if bias is None else bias - taken
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        y = self.input(x) @ self.weight()
        return self.output(y if self.bias is None else y + self.bias.view(*[1] * (y.dim() - 1), -1))


class DeployConv2d(nn.Module):
    """A Conv2d with stored integers.

    Args:
        layer: A calibrated layer.

    Raises:
        ExportError: The padding is not a number of zeros.
    """

    bias: Tensor | None

    def __init__(self, layer: QuantConv2d) -> None:
        super().__init__()
        self.input, self.output = activation(layer.input_quantizer), activation(layer.output_quantizer)
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ExportError(
                f"a convolution with padding {layer.padding_mode!r}, {layer.padding!r} is not exported: "
                "keep it in float"
            )
        self.options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        # hosts read the geometry: timm's DaViT pads for it
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        quantized = layer.weight_quantizer is not None
        self.weight = StoredWeight(*stored_integers(layer), axis=0) if quantized else FloatWeight(layer.weight.detach())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in, H, W)`` to ``(batch, out, H', W')``."""
        return self.output(nn.functional.conv2d(self.input(x), self.weight(), self.bias, *self.options))


class DeployConvTranspose2d(nn.Module):
    """A ConvTranspose2d with stored integers.

    ONNX Runtime has no integer form of it. Where the kernel is a square of the stride's size, and nothing is cut off or
    added, each output pixel comes from one input pixel, so that a convolution of 1 x 1 computes all of them::

        y[o, k h + i, k w + j]  =  sum_c W[c, o, i, j] x[c, h, w] + b[o]

    with ``k^2`` output channels for each o, which are then moved to their places. Other geometries multiply in float.

    Args:
        layer: A calibrated layer.
    """

    bias: Tensor | None

    def __init__(self, layer: QuantConvTranspose2d) -> None:
        super().__init__()
        self.input, self.output = activation(layer.input_quantizer), activation(layer.output_quantizer)
        quantized, (height, width) = layer.weight_quantizer is not None, layer.kernel_size
        bare = {*layer.padding, *layer.output_padding} == {0} and set(layer.dilation) == {1}
        # The factor by which the map grows, where pixels do not overlap; 0 where they do.
        self.factor = height if layer.kernel_size == layer.stride == (height, height) and bare else 0
        self.options: Any = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        weight, scale = stored_integers(layer) if quantized else (layer.weight.detach(), None)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        if self.factor:
            # (in, out, k, k) to (out k^2, in, 1, 1): scale and bias of a channel belong to k^2 of the new ones.
            weight = weight.permute(1, 2, 3, 0).reshape(-1, layer.in_channels, 1, 1).contiguous()
            scale, bias = (one if one is None else one.repeat_interleave(height * width) for one in (scale, bias))
        axis = 0 if self.factor else 1
        self.weight = FloatWeight(weight) if scale is None else StoredWeight(weight, scale, axis)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in, H, W)`` to ``(batch, out, H', W')``."""
        if self.factor:
            y = nn.functional.conv2d(self.input(x), self.weight(), self.bias)
            return self.output(nn.functional.pixel_shuffle(y, self.factor))
        return self.output(nn.functional.conv_transpose2d(self.input(x), self.weight(), self.bias, *self.options))


class DeployMatMul(nn.Module):
    """A product of two activations.

    Args:
        product: A calibrated product.
    """

    ratio: Tensor | None
    center: Tensor | None

    def __init__(self, product: QuantMatMul) -> None:
        super().__init__()
        self.left, self.right = activation(product.left_quantizer), activation(product.right_quantizer)
        self.output = activation(product.output_quantizer)
        self.register_buffer("ratio", product.ratio)
        self.register_buffer("center", product.center)
        # The columns of the right operand are those of the product. Rows are summed over, together with the left one's.
        self.rotates_back = getattr(self.right, "rotation_axis", None) == -1

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``(..., n, k) @ (..., k, m)`` to ``(..., n, m)``."""
        a, b = equalized(a, b, self.ratio, self.center)
        y = self.left(a) @ self.right(b)
        return self.output(rotated_back(y, -1) if self.rotates_back else y)


FORMS: dict[type[nn.Module], Any] = {
    QuantLinear: DeployLinear,
    QuantConv2d: DeployConv2d,
    QuantConvTranspose2d: DeployConvTranspose2d,
    QuantMatMul: DeployMatMul,
    Quantizer: activation,
}


def deployed(model: nn.Module, required: bool = True) -> nn.Module:
    """Copy a quantized model and replace its quantized layers by layers with stored integers.

    Args:
        model: A calibrated model; it is not changed.
        required: Whether a model without quantized layers is an error.

    Returns:
        The copy, in eval mode.

    Raises:
        QuantizationError: A quantizer is not calibrated.
        ExportError: The model has no quantized layer, or a layer cannot be exported.
    """
    check_calibrated(model)
    if required and not any(type(module) in FORMS for module in model.modules()):
        raise ExportError(
            "nothing in the model is quantized: give the config and the checkpoint that tools/dfq.py left"
        )
    copied = copy.deepcopy(model)
    copied.eval()  # not chained, because train() of some hosts' backbones returns None
    copied.requires_grad_(False)
    done: dict[nn.Module, nn.Module] = {}
    for module in list(copied.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and type(child) in FORMS:
                if child not in done:
                    done[child] = FORMS[type(child)](child)
                module._modules[name] = done[child]
    return copied
