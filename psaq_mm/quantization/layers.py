"""Quantized layers. Each is made from its float sibling, shares its parameters and keeps its keys in the state dict."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import QuantizationError
from .functional import usable_scale
from .quantizer import Quantizer, State, WeightQuantizer
from .spec import QuantSpec


def _quantizer(spec: QuantSpec | None, name: str, role: str) -> Quantizer | None:
    return None if spec is None else Quantizer(spec, f"{name}.{role}" if name else role)


class QuantizedLayer(nn.Module):
    """What quantized layers share: quantizers around a computation with a weight; mixed into the float class.

    Attributes:
        input_quantizer: On the input, or None where it stays FP.
        weight_quantizer: On the weight, or None.
        output_quantizer: On the output, or None.
    """

    weight: Any
    bias: Any
    input_quantizer: Quantizer | None
    weight_quantizer: WeightQuantizer | None
    output_quantizer: Quantizer | None

    def adopt(
        self, module: Any, weight: QuantSpec | None, input: QuantSpec | None, output: QuantSpec | None, name: str
    ) -> None:
        """Takes over a float module's parameters (the same objects) and training flag, and adds the quantizers."""
        self.weight, self.bias = module.weight, module.bias
        self.input_quantizer = _quantizer(input, name, "input_quantizer")
        role = f"{name}.weight_quantizer" if name else "weight_quantizer"
        self.weight_quantizer = None if weight is None else WeightQuantizer(weight, role)
        self.output_quantizer = _quantizer(output, name, "output_quantizer")
        for quantizer in (self.input_quantizer, self.weight_quantizer, self.output_quantizer):
            if quantizer is not None:
                quantizer.to(self.weight.device)
        self.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        """The float layer's result with input, weight and output quantized as asked; shapes as the float layer's."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        y = self.compute(x, self.quantized_weight())
        return y if self.output_quantizer is None else self.output_quantizer(y)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The float layer's computation with another weight."""
        raise TypeError(f"{type(self).__name__} must define compute(x, weight)")

    def quantized_weight(self) -> Tensor:
        """The weight as it is multiplied: on its quantizer's grid, or as it is where that stays FP."""
        if self.weight_quantizer is None or not self.weight_quantizer.enabled:
            return self.weight
        fold = self.input_fold()
        return self.weight_quantizer(self.weight) if fold is None else self.weight_quantizer(self.weight * fold) / fold

    def input_fold(self) -> Tensor | None:
        """What the weight of each input channel is multiplied by before it is quantized; None for one input scale.

        Integers can be summed over channels only if they have one scale, so an input quantized per channel is divided
        by ``r_c = scale_c / mean(scale)``, and the weight multiplied by it (Li et al., *RepQ-ViT*, ICCV 2023)::

            sum_c  x_c W_oc  =  sum_c  (x_c / r_c) (W_oc r_c)

        Behind a LayerNorm the division costs nothing: it goes into gamma and beta.
        """
        quantizer = self.input_quantizer
        calibrated = quantizer is not None and quantizer.state in (State.CALIBRATED, State.FROZEN)
        if quantizer is None or not calibrated or not quantizer.spec.per_channel:
            return None
        scale = usable_scale(quantizer.scale)
        return scale / scale.mean()

    def calibrate_weight(self) -> None:
        """Finds the weight's clipping and scale, for the input's scales as they are."""
        if self.weight_quantizer is not None and self.weight_quantizer.enabled:
            self.weight_quantizer.calibrate_from(self._folded_weight())

    def refresh(self) -> None:
        """Brings the weight's scale up to date with the weight, which an optimizer may have moved since forward."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.refresh(self._folded_weight())

    def _folded_weight(self) -> Tensor:
        fold = self.input_fold()
        return self.weight if fold is None else self.weight.detach() * fold

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.refresh()
        super()._save_to_state_dict(*args, **kwargs)


class QuantLinear(QuantizedLayer, nn.Linear):
    """``nn.Linear`` with quantized input, weight and output; make it with ``from_module``."""

    @classmethod
    def from_module(
        cls,
        module: nn.Linear,
        weight: QuantSpec | None,
        input: QuantSpec | None,
        output: QuantSpec | None = None,
        name: str = "",
    ) -> QuantLinear:
        """The quantized sibling of a Linear.

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
        """See base class."""
        return F.linear(x, weight, self.bias)


class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """``nn.Conv2d`` with quantized input, weight and output; make it with ``from_module``.

    Zero padding is exact, since zero always lies on the input's grid.
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
        """The quantized sibling of a Conv2d.

        Args:
            module: The float layer; its parameters are shared.
            weight: Spec of the weight ``(out, in / groups, kh, kw)``, None keeps it FP.
            input: Spec of the input ``(batch, in, H, W)``, None keeps it FP.
            output: Spec of the output, None keeps it FP.
            name: The layer's name in the model, for messages.

        Raises:
            QuantizationError: The input's spec is per channel.
        """
        if input is not None and input.per_channel:
            raise QuantizationError(f"layer {name!r}: a Conv2d's input has one scale: only a Linear's may have more")
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
        """See base class."""
        return self._conv_forward(x, weight, self.bias)


class QuantMatMul(nn.Module):
    """``a @ b`` with quantized operands, for the two products of attention.

    Args:
        left: Spec of ``a``, None keeps it FP.
        right: Spec of ``b``, None keeps it FP.
        output: Spec of the product, None keeps it FP.
        name: The product's name in the model, for messages.
    """

    left_quantizer: Quantizer | None
    right_quantizer: Quantizer | None
    output_quantizer: Quantizer | None

    def __init__(
        self, left: QuantSpec | None, right: QuantSpec | None, output: QuantSpec | None = None, name: str = ""
    ) -> None:
        super().__init__()
        self.left_quantizer = _quantizer(left, name, "left_quantizer")
        self.right_quantizer = _quantizer(right, name, "right_quantizer")
        self.output_quantizer = _quantizer(output, name, "output_quantizer")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``(..., n, k) @ (..., k, m) -> (..., n, m)``."""
        if self.left_quantizer is not None:
            a = self.left_quantizer(a)
        if self.right_quantizer is not None:
            b = self.right_quantizer(b)
        y = a @ b
        return y if self.output_quantizer is None else self.output_quantizer(y)
