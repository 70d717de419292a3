"""Uniform fake quantization for PyTorch models: specs, quantizers, quantized layers, conversion and coverage.

Pure torch. The usual way through::

    policy = QuantPolicy(weight_bits=4, activation_bits=8)
    model = quantize_model(model, policy)
    with calibrating(model), torch.no_grad():
        model(samples)
    with recording_sqnr(model), torch.no_grad():
        model(samples)
    print(coverage(model, policy).table())
    freeze(model)
"""

from ..errors import QuantizationError
from .calibration import (
    calibrating,
    check_calibrated,
    freeze,
    quantized_layers,
    quantizers,
    recording_sqnr,
    set_enabled,
    trainable_groups,
    unfreeze,
)
from .convert import (
    convert_child,
    full_name,
    is_quantized,
    quantize_conv2d,
    quantize_linear,
    quantize_model,
    register_quantized,
)
from .coverage import CoverageReport, CoverageRow, coverage
from .functional import affine_parameters, fake_quantize, sqnr
from .layers import QuantConv2d, QuantizedLayer, QuantLinear, QuantMatMul
from .observers import EMAObserver, MinMaxObserver, MSEObserver, Observer, PercentileObserver, make_observer
from .policy import LayerSpecs, QuantPolicy
from .quantizer import Quantizer, State, WeightQuantizer
from .rates import relative_groups
from .rounding import gptq, quantized_linears, recording_moments, round_weights
from .spec import QuantSpec, activation_spec, weight_spec

__all__ = [
    "CoverageReport",
    "CoverageRow",
    "EMAObserver",
    "LayerSpecs",
    "MSEObserver",
    "MinMaxObserver",
    "Observer",
    "PercentileObserver",
    "QuantConv2d",
    "QuantLinear",
    "QuantMatMul",
    "QuantPolicy",
    "QuantSpec",
    "QuantizationError",
    "QuantizedLayer",
    "Quantizer",
    "State",
    "WeightQuantizer",
    "activation_spec",
    "affine_parameters",
    "calibrating",
    "check_calibrated",
    "convert_child",
    "coverage",
    "fake_quantize",
    "freeze",
    "full_name",
    "gptq",
    "is_quantized",
    "make_observer",
    "quantize_conv2d",
    "quantize_linear",
    "quantize_model",
    "quantized_layers",
    "quantized_linears",
    "quantizers",
    "recording_moments",
    "recording_sqnr",
    "round_weights",
    "register_quantized",
    "relative_groups",
    "set_enabled",
    "sqnr",
    "trainable_groups",
    "unfreeze",
    "weight_spec",
]
