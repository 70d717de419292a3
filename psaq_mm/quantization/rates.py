"""Learning rates relative to what they move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .calibration import quantized_layers, quantizers, trainable_groups
from .layers import QuantizedLayer

# Adam divides by sqrt(v) + eps. Of a parameter of size 0.02, common for weights, this is torch's own eps of 1e-8.
RELATIVE_EPS = 2e-10


def relative_groups(model: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups for Adam in which every parameter has a rate relative to its own size.

    Adam moves an element by about its rate, whatever the gradient's size: with one absolute rate, weights that are
    small because the inputs of their layer are large would be moved out of all proportion. Here::

        lr = rate[kind] * size,    eps = 2e-10 / size

    | kind   | parameter  | size                                              |
    |--------|------------|---------------------------------------------------|
    | weight | weight     | its root mean square                              |
    | bias   | bias       | that of the weight, times the span of the input   |
    | scale  | scale      | its mean                                          |
    | scale  | zero point | the steps of the grid                             |

    A bias is a weight on a constant input, hence its size; the span is ``scale * steps`` of the input's quantizer. A
    bias of a layer whose input stays FP has its own root mean square, and so has one whose weight is zero. A layer that
    computes ``(W / k) (k x) + b`` is therefore trained as ``W x + b`` is, up to rounding, whatever k is.

    Example: a weight of root mean square 0.02 behind inputs in [-3, 5], at rates of 3e-3 and 1e-3: the weight moves by
    6e-5 a step, the bias by 1e-3 * 0.02 * 8 = 1.6e-4.

    Args:
        model: A calibrated model.
        rates: The relative rate of ``weight``, ``bias`` and ``scale``.

    Returns:
        One group a parameter, with its ``lr`` and ``eps``; parameters of size 0 are left out, shared ones stand once.
    """
    sizes: dict[int, float] = {}
    for layer in quantized_layers(model):
        of_weight = root_mean_square(layer.weight)
        sizes.setdefault(id(layer.weight), of_weight)
        if layer.bias is not None:
            sizes.setdefault(id(layer.bias), of_weight * input_span(layer) or root_mean_square(layer.bias))
    for _, quantizer in quantizers(model):
        sizes[id(quantizer.scale)] = float(quantizer.scale.detach().mean())
        sizes[id(quantizer.zero_point)] = quantizer.spec.quant_max - quantizer.spec.quant_min
    groups = []
    for kind, parameters in trainable_groups(model).items():
        for parameter in parameters:
            if size := sizes[id(parameter)]:
                groups.append({"params": [parameter], "lr": rates[kind] * size, "eps": RELATIVE_EPS / size})
    return groups


def root_mean_square(x: Tensor) -> float:
    """``sqrt(mean x^2)``, in float64, where no square of a float32 overflows or vanishes."""
    return float(x.detach().double().square().mean().sqrt())


def input_span(layer: QuantizedLayer) -> float:
    """How far the range of a layer's input reaches, the mean over channels; 0 where its input stays FP."""
    quantizer = layer.input_quantizer
    if quantizer is None or quantizer.spec.log2:
        return 0.0
    return float(quantizer.scale.detach().mean()) * (quantizer.spec.quant_max - quantizer.spec.quant_min)
