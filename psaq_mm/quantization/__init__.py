"""Fake quantization for PyTorch models: specs, quantizers, quantized layers, conversion and coverage.

Needs torch alone. Example::

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
from ..utils.class_table import full_name
from .calibration import (
    calibrating,
    check_calibrated,
    freeze,
    quantized_layers,
    quantizers,
    recording_sqnr,
    trainable_groups,
    unfreeze,
)
from .convert import (
    convert_child,
    is_quantized,
    quantize_conv2d,
    quantize_conv_transpose2d,
    quantize_linear,
    quantize_model,
    register_quantized,
)
from .coverage import CoverageReport, CoverageRow, coverage
from .fold import FoldedNorm, fold, fold_norms, fold_state, register_pairs
from .functional import affine_parameters, fake_quantize, sqnr
from .layers import QuantConv2d, QuantConvTranspose2d, QuantizedLayer, QuantLinear
from .matmul import QuantMatMul
from .observers import Observer, make_observer, register_observer
from .policy import LayerSpecs, QuantPolicy
from .quantizer import Quantizer, State
from .rates import relative_groups
from .rounding import (
    ROUNDINGS,
    GPTQRounding,
    Rounding,
    collect_hessians,
    gptq,
    make_rounding,
    quantized_linears,
    register_rounding,
    round_weights,
)
from .spec import QuantSpec, activation_spec, weight_spec
from .transforms.equalization import channel_ratio, equalizing
from .weight_quantizer import WeightQuantizer

__all__ = [
    "ROUNDINGS",
    "CoverageReport",
    "CoverageRow",
    "FoldedNorm",
    "GPTQRounding",
    "LayerSpecs",
    "Observer",
    "QuantConv2d",
    "QuantConvTranspose2d",
    "QuantLinear",
    "QuantMatMul",
    "QuantPolicy",
    "QuantSpec",
    "QuantizationError",
    "QuantizedLayer",
    "Quantizer",
    "Rounding",
    "State",
    "WeightQuantizer",
    "activation_spec",
    "affine_parameters",
    "calibrating",
    "channel_ratio",
    "check_calibrated",
    "collect_hessians",
    "convert_child",
    "coverage",
    "fake_quantize",
    "equalizing",
    "fold",
    "fold_norms",
    "fold_state",
    "freeze",
    "full_name",
    "gptq",
    "is_quantized",
    "make_observer",
    "make_rounding",
    "quantize_conv2d",
    "quantize_conv_transpose2d",
    "quantize_linear",
    "quantize_model",
    "quantized_layers",
    "quantized_linears",
    "quantizers",
    "recording_sqnr",
    "register_observer",
    "register_pairs",
    "register_quantized",
    "register_rounding",
    "relative_groups",
    "round_weights",
    "sqnr",
    "trainable_groups",
    "unfreeze",
    "weight_spec",
]
