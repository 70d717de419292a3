"""Quantized layers. Each is made from a float layer, shares its parameters and keeps its keys in the state dict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import QuantizationError
from .functional import usable_scale
from .quantizer import Quantizer, State
from .spec import QuantSpec
from .transforms.rotation import rotated, rotated_back
from .weight_quantizer import WeightQuantizer


def make_quantizer(spec: QuantSpec | None, name: str, role: str) -> Quantizer | None:
    """The quantizer of a layer's tensor, None without a spec.

    Args:
        spec: Its spec.
        name: The layer's name in the model.
        role: The quantizer's name in the layer.
    """
    return None if spec is None else Quantizer(spec, _label(name, role))


def _label(name: str, role: str) -> str:
    return f"{name}.{role}" if name else role


class QuantizedLayer(nn.Module):
    """Mixin of the quantized layers: quantizers for the input, weight and output of a float layer class.

    Attributes:
        input_quantizer: Quantizer of the input, None if it stays FP.
        weight_quantizer: Quantizer of the weight, None if it stays FP.
        output_quantizer: Quantizer of the output, None if it stays FP.
    """

    weight: Any
    bias: Any
    input_quantizer: Quantizer | None
    weight_quantizer: WeightQuantizer | None
    output_quantizer: Quantizer | None

    def adopt(
        self, module: Any, weight: QuantSpec | None, input: QuantSpec | None, output: QuantSpec | None, name: str
    ) -> None:
        """Takes over a float module's parameters (the same objects) and training flag, and adds the quantizers.

        Args:
            module: The float layer.
            weight: Spec of the weight, None keeps it FP.
            input: Spec of the input, None keeps it FP.
            output: Spec of the output, None keeps it FP.
            name: The layer's name in the model, for messages.
        """
        self.weight, self.bias = module.weight, module.bias
        self.input_quantizer = make_quantizer(input, name, "input_quantizer")
        label = _label(name, "weight_quantizer")
        self.weight_quantizer = None if weight is None else WeightQuantizer(weight, label)
        self.output_quantizer = make_quantizer(output, name, "output_quantizer")
        for quantizer in (self.input_quantizer, self.weight_quantizer, self.output_quantizer):
            if quantizer is not None:
                quantizer.to(self.weight.device)
        self.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        """The result of the float layer with quantized input, weight and output; shapes as in the float layer."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        y = self.compute(x, self.quantized_weight())
        if self.output_quantizer is not None:
            y = self.output_quantizer(y)
        return y

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The computation of the float layer with ``weight`` in place of its own."""
        raise TypeError(f"{type(self).__name__} must define compute(x, weight)")

    def quantized_weight(self) -> Tensor:
        """The weight that multiplies the input: fake-quantized, or the float weight if it stays FP."""
        if self.weight_quantizer is None or not self.weight_quantizer.enabled:
            weight: Tensor = self.weight
            return weight
        return self.unfolded_weight(self.weight_quantizer(self.folded_weight()))

    def input_channel_scale(self) -> Tensor | None:
        """The factor ``r_c`` of each input channel by which the weight is multiplied before it is quantized.

        Integer products can only be summed over channels that have the same scale. An input quantized per channel is
        therefore divided by ``r_c = scale_c / mean(scale)``, and the weight is multiplied by it (Li et al., *RepQ-ViT*,
        ICCV 2023)::

            sum_c  x_c W_oc  =  sum_c  (x_c / r_c) (W_oc r_c)

        Behind a LayerNorm the division adds no operation: it is merged into gamma and beta.

        Returns:
            Shape ``(in,)``; None if the input has one scale, stays FP or isn't calibrated.
        """
        quantizer = self.input_quantizer
        calibrated = quantizer is not None and quantizer.state in (State.CALIBRATED, State.FROZEN)
        if quantizer is None or not calibrated or not quantizer.spec.per_channel:
            return None
        scale = usable_scale(quantizer.scale)
        return scale / scale.mean()

    def folded_weight(self) -> Tensor:
        """The values that the weight quantizer rounds: the weight, rotated like the input, times the channels' scales.

        With the rotation H of the input (:attr:`rotates`) and r, :meth:`input_channel_scale`::

            x W^T  =  (x H / r) (W H r)^T
        """
        weight: Tensor = self.weight
        if self.rotates:
            weight = rotated(weight, -1)
        ratio = self.input_channel_scale()
        return weight if ratio is None else weight * ratio

    def unfolded_weight(self, folded: Tensor) -> Tensor:
        """The weight ``(out, in)`` of which ``folded`` is the :meth:`folded_weight`."""
        ratio = self.input_channel_scale()
        weight = folded if ratio is None else folded / ratio
        return rotated_back(weight, -1) if self.rotates else weight

    def folded_input(self, x: Tensor) -> Tensor:
        """What multiplies the folded weight: the input ``(..., in)``, quantized, rotated, over the channels' scales."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        if self.rotates:
            x = rotated(x, -1)
        ratio = self.input_channel_scale()
        return x if ratio is None else x / ratio

    @property
    def rotates(self) -> bool:
        """Whether the channels of input and weight are rotated before they are quantized."""
        return self.input_quantizer is not None and self.input_quantizer.spec.rotation_axis is not None

    def calibrate_weight(self) -> None:
        """Determines clip ratio and scale of the weight, for the current scales of the input."""
        if self.weight_quantizer is not None and self.weight_quantizer.enabled:
            self.weight_quantizer.calibrate_from(self.folded_weight().detach())

    def refresh(self) -> None:
        """Recomputes the scale of the weight, which an optimizer may have changed since the last forward."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.refresh(self.folded_weight().detach())

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.refresh()
        super()._save_to_state_dict(*args, **kwargs)


class QuantLinear(QuantizedLayer, nn.Linear):
    """``nn.Linear`` with quantized input, weight and output; created by ``from_module``."""

    @classmethod
    def from_module(
        cls,
        module: nn.Linear,
        weight: QuantSpec | None,
        input: QuantSpec | None,
        output: QuantSpec | None = None,
        name: str = "",
    ) -> QuantLinear:
        """The quantized form of a Linear.

        Args:
            module: The float layer; its parameters are shared.
            weight: Spec of the weight ``(out, in)``, None keeps it FP.
            input: Spec of the input ``(..., in)``, None keeps it FP.
            output: Spec of the output ``(..., out)``, None keeps it FP.
            name: The layer's name in the model, for messages.
        """
        quantized = cls(module.in_features, module.out_features, module.bias is not None, device="meta")
        quantized.adopt(module, weight, input, output, name)
        return quantized

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x @ weight.T + bias``: ``(..., in)`` to ``(..., out)``."""
        return F.linear(x, weight, self.bias)


class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """``nn.Conv2d`` with quantized input, weight and output; created by ``from_module``.

    Zero padding is exact, because zero is always on the input's grid.
    """

    @classmethod
    def from_module(
        cls,
        module: nn.Conv2d,
        weight: QuantSpec | None,
        input: QuantSpec | None,
        output: QuantSpec | None = None,
        name: str = "",
    ) -> QuantConv2d:
        """The quantized form of a Conv2d.

        Args:
            module: The float layer; its parameters are shared.
            weight: Spec of the weight ``(out, in / groups, kh, kw)``, None keeps it FP.
            input: Spec of the input ``(batch, in, H, W)``, None keeps it FP.
            output: Spec of the output, None keeps it FP.
            name: The layer's name in the model, for messages.

        Raises:
            QuantizationError: The input's spec is per channel.
        """
        _check_one_scale(input, "Conv2d", name)
        quantized = cls(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            module.groups,
            module.bias is not None,
            module.padding_mode,
            device="meta",
        )
        quantized.adopt(module, weight, input, output, name)
        return quantized

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution: ``(batch, in, H, W)`` to ``(batch, out, H', W')``."""
        y: Tensor = self._conv_forward(x, weight, self.bias)
        return y


class QuantConvTranspose2d(QuantizedLayer, nn.ConvTranspose2d):  # type: ignore[misc]
    """``nn.ConvTranspose2d`` of one group with quantized input, weight and output; created by ``from_module``.

    The weight is ``(in, out, kh, kw)``, so its scales belong to dimension 1.
    """

    @classmethod
    def from_module(
        cls,
        module: nn.ConvTranspose2d,
        weight: QuantSpec | None,
        input: QuantSpec | None,
        output: QuantSpec | None = None,
        name: str = "",
    ) -> QuantConvTranspose2d:
        """The quantized form of a ConvTranspose2d.

        Args:
            module: The float layer; its parameters are shared.
            weight: Spec of the weight; its axis is replaced by 1. None keeps it FP.
            input: Spec of the input ``(batch, in, H, W)``, None keeps it FP.
            output: Spec of the output, None keeps it FP.
            name: The layer's name in the model, for messages.

        Raises:
            QuantizationError: The input's spec is per channel, or the layer has several groups.
        """
        _check_one_scale(input, "ConvTranspose2d", name)
        if module.groups > 1:
            # Output channels of different groups share an index of dimension 1.
            raise QuantizationError(f"layer {name!r}: a ConvTranspose2d with {module.groups} groups: keep it FP")
        quantized = cls(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.output_padding,  # type: ignore[arg-type]
            module.groups,
            module.bias is not None,
            module.dilation,  # type: ignore[arg-type]
            module.padding_mode,
            device="meta",
        )
        quantized.adopt(module, weight and replace(weight, axis=1), input, output, name)
        return quantized

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The transposed convolution: ``(batch, in, H, W)`` to ``(batch, out, H', W')``."""
        return F.conv_transpose2d(
            x,
            weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.groups,
            self.dilation,
        )


def _check_one_scale(input: QuantSpec | None, kind: str, name: str) -> None:
    if input is not None and input.per_channel:
        raise QuantizationError(
            f"layer {name!r}: the input of a {kind} needs one scale: only a Linear's may be per channel"
        )
