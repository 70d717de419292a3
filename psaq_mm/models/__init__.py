"""Where quantization and generation meet real architectures."""

from .convert_swin import convert_authors_swin, has_authors_names
from .outputs import OutputFunction, calibration_function, output_function
from .quantized import QuantizedModel, QuantSwinTransformer, artifact_model, policy_of, quantize_in_place
from .swin import QuantWindowMSA
from .taps import AttentionTaps, check_image_size

__all__ = [
    "AttentionTaps",
    "OutputFunction",
    "QuantSwinTransformer",
    "QuantWindowMSA",
    "QuantizedModel",
    "artifact_model",
    "calibration_function",
    "check_image_size",
    "convert_authors_swin",
    "has_authors_names",
    "output_function",
    "policy_of",
    "quantize_in_place",
]
