"""The operands of exported layers: stored weights, and activations behind a pair of operators.

The quantized model simulates integers: it keeps float weights and rounds them in each forward pass. Here the weights
*are* integers, and an activation's quantizer is a pair of ONNX operators with the calibrated scale and zero point. In
torch the modules compute what an engine computes, including the division by the scale; in ``torch.onnx.export`` they
emit the operators.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..quantization import QuantizedLayer, Quantizer, WeightQuantizer
from ..quantization.functional import log_fake_quantize
from ..quantization.transforms.rotation import rotated

TYPE_BITS = 8


def exporting() -> bool:
    """Whether ``torch.onnx.export`` is tracing the modules."""
    return torch.compiler.is_exporting()


class ActivationQDQ(nn.Module):
    """An activation's quantizer as a pair of QuantizeLinear and DequantizeLinear of unsigned 8-bit integers.

    ::

        q = saturate(round(x / scale) + zero_point),    y = (q - zero_point) * scale

    Grids of fewer bits use the lowest values of the 8-bit type. Their input is clipped before the pair, because engines
    do not fuse a pair with an operator in between.

    After a LayerNorm, each channel may have a scale ``s_c`` and a zero point ``z_c``. A product sums integers over the
    channels and needs a common scale and zero point. With ``r_c = s_c / mean(s)`` and ``z = round(mean(z_c))``::

        x'_c = x_c / r_c + (z_c - z) mean(s)

    has the same integers with ``mean(s)`` and ``z``. ``y`` then approximates x' instead of x: the weight of the
    following layer contains ``r``, and its bias subtracts the effect of the added term (:attr:`shift`).

    A rotation (:attr:`rotation_axis`) is computed in float before all this. ``y`` stays rotated, and so does the weight
    that it meets.

    Args:
        quantizer: A calibrated quantizer with a uniform asymmetric grid.

    Raises:
        ExportError: The grid is symmetric.
    """

    scale: Tensor
    zero_point: Tensor
    ratio: Tensor | None
    shift: Tensor | None

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        spec, scale = quantizer.spec, quantizer.scale.detach().float()
        zero = quantizer.zero_point.detach().float().round().clamp(spec.quant_min, spec.quant_max)
        if spec.symmetric or spec.quant_min:
            raise ExportError(
                f"quantizer {quantizer.name!r}: only asymmetric grids of activations are exported: quantize with one"
            )
        common = zero.mean().round()
        self.bits, self.rotation_axis = spec.bits, spec.rotation_axis
        # floats, because the exporter cannot read values of buffers
        self.lowest = float(-common * scale.mean())
        self.highest = float((2**spec.bits - 1 - common) * scale.mean())
        self.register_buffer("scale", scale.mean())
        self.register_buffer("zero_point", common.to(torch.uint8))
        self.register_buffer("ratio", scale / scale.mean() if spec.per_channel else None)
        different = spec.per_channel and bool((zero != common).any())
        self.register_buffer("shift", (zero - common) * scale.mean() if different else None)

    def integers(self, x: Tensor) -> Tensor:
        """The integers of ``x``, uint8, computed as by an engine."""
        scaled = self.prepared(x) / self.scale
        return (scaled.round() + self.zero_point).clamp(0, 2**self.bits - 1).to(torch.uint8)

    def prepared(self, x: Tensor) -> Tensor:
        """``x'``, which has a common scale and zero point."""
        if self.rotation_axis is not None:
            x = rotated(x, self.rotation_axis)
        if self.ratio is not None:
            x = x * (1 / self.ratio)
        return x if self.shift is None else x + self.shift

    def forward(self, x: Tensor) -> Tensor:
        """To the grid and back; the shape of ``x``."""
        if not exporting():
            return (self.integers(x).float() - self.zero_point) * self.scale
        x = self.prepared(x)
        if self.bits < TYPE_BITS:
            x = x.clamp(self.lowest, self.highest)
        q = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, self.scale, self.zero_point), dtype=torch.uint8, shape=x.shape
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (q, self.scale, self.zero_point), dtype=torch.float32, shape=x.shape
        )


class LogQuantize(nn.Module):
    """A logarithmic grid of softmax outputs in float arithmetic, because engines have no such integers.

    Args:
        quantizer: A calibrated quantizer with a logarithmic grid.
    """

    scale: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.spec = quantizer.spec
        self.register_buffer("scale", quantizer.scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """To the grid and back; the shape of ``x``."""
        return log_fake_quantize(x, self.scale, self.spec)


class Weight(nn.Module):
    """A weight in place of a layer's parameter, of which some hosts ask type and device."""

    reference: str

    @property
    def dtype(self) -> torch.dtype:
        """The type of the values."""
        tensor: Tensor = getattr(self, self.reference)
        return tensor.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        tensor: Tensor = getattr(self, self.reference)
        return tensor.device


class StoredWeight(Weight):
    """A weight of signed integers with a scale for each output channel.

    Args:
        integers: int8 tensor of the weight's shape.
        scale: Positive, one for each output channel.
        axis: The dimension of the output channels.
    """

    reference = "scale"
    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, integers: Tensor, scale: Tensor, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(len(scale), dtype=torch.int8))

    def forward(self) -> Tensor:
        """The weight in float."""
        if not exporting():
            shape = [-1 if dim == self.axis else 1 for dim in range(self.integers.dim())]
            return self.integers.float() * self.scale.view(shape)
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.integers, self.scale, self.zero_point),
            attrs={"axis": self.axis},
            dtype=torch.float32,
            shape=self.integers.shape,
        )


class FloatWeight(Weight):
    """A weight that is not quantized.

    Args:
        value: The weight.
    """

    reference = "value"
    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> Tensor:
        """The weight."""
        return self.value


def stored_integers(layer: QuantizedLayer) -> tuple[Tensor, Tensor]:
    """The integers of a layer's weight and their scales, computed as in the simulation.

    Args:
        layer: A calibrated layer with quantized weights.

    Returns:
        The integers, int8 of the weight's shape, and the scales, float32 ``(out,)``.
    """
    quantizer = layer.weight_quantizer
    assert isinstance(quantizer, WeightQuantizer)
    layer.refresh()
    weight = layer.folded_weight().detach()
    axis = quantizer.spec.axis
    scale = quantizer.scale.detach().float().expand(weight.shape[axis]).contiguous()
    with torch.no_grad():
        multiples = quantizer(weight) / scale.view([-1 if dim == axis else 1 for dim in range(weight.dim())])
    return multiples.round().to(torch.int8), scale


def activation(quantizer: Quantizer | None) -> nn.Module:
    """The exported form of an activation's quantizer; the identity for None or a disabled quantizer."""
    if quantizer is None or not quantizer.enabled:
        return nn.Identity()
    return LogQuantize(quantizer) if quantizer.spec.logarithmic else ActivationQDQ(quantizer)
