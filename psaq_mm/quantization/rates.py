"""Learning rates relative to the size of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .calibration import quantized_layers, quantizers, trainable_groups
from .layers import QuantizedLayer

# Adam divides by sqrt(v) + eps. For a parameter of size 0.02, common for weights, eps is torch's default of 1e-8.
RELATIVE_EPS = 2e-10


def relative_groups(model: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameter groups for Adam with a learning rate relative to the size of each parameter.

    Adam changes an element by about its learning rate per step, independent of the gradient's size. With one absolute
    rate, the relative change of small weights (of layers with large inputs) would be much larger than that of others.
    Here::

        lr = rate[kind] * size,    eps = 2e-10 / size

    ======  ==========  ============================================================
    kind    parameter   size
    ======  ==========  ============================================================
    weight  weight      its root mean square
    bias    bias        root mean square of the weight times the span of the input
    scale   scale       its mean
    scale   zero point  number of steps of the grid
    ======  ==========  ============================================================

    The size of a bias is that of a weight whose input is constant. The span is ``scale * steps`` of the input's
    quantizer. If the input stays FP or the weight is zero, the size of the bias is its own root mean square. A layer
    that computes ``(W / k) (k x) + b`` is therefore trained like ``W x + b`` for every k, up to rounding.

    Example: a weight of root mean square 0.02 behind inputs in [-3, 5], at rates of 3e-3 and 1e-3: the weight moves by
    6e-5 a step, the bias by 1e-3 * 0.02 * 8 = 1.6e-4.

    Args:
        model: A calibrated model.
        rates: The relative rate of ``weight``, ``bias`` and ``scale``.

    Returns:
        One group per parameter, with its ``lr`` and ``eps``. Parameters of size 0 are left out, shared ones occur once.
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
    """``sqrt(mean x^2)``, computed in float64, in which squares of float32 numbers neither overflow nor underflow."""
    return float(x.detach().double().square().mean().sqrt())


def input_span(layer: QuantizedLayer) -> float:
    """Width of the range of a layer's input, mean over channels; 0 if the input stays FP or its grid is logarithmic."""
    quantizer = layer.input_quantizer
    if quantizer is None or quantizer.spec.logarithmic:
        return 0.0
    return float(quantizer.scale.detach().mean()) * (quantizer.spec.quant_max - quantizer.spec.quant_min)
