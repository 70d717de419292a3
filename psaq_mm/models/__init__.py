"""Where quantization and generation meet real architectures."""

from importlib.util import find_spec

from .artifacts import artifact_model, without_downloads
from .attention import DecomposedAttention
from .backbones import QuantizedBackbone, QuantizedTimmClassifier, backbone_of, quantized_class
from .convert_swin import convert_authors_swin, has_authors_names
from .outputs import OutputFunction, backbone_outputs, calibration_function, output_function
from .pixels import pixel_bounds, takes_rgb
from .quantized import QuantizedModel, policy_of, quantize_in_place
from .swin import QuantWindowMSA
from .taps import AttentionTaps, check_image_size, register_tap
from .torch_attention import QuantMmcvAttention, QuantTorchAttention
from .vit import QuantAttention, QuantMultiheadAttention

__all__ = [
    "AttentionTaps",
    "DecomposedAttention",
    "OutputFunction",
    "QuantAttention",
    "QuantMmcvAttention",
    "QuantMultiheadAttention",
    "QuantTorchAttention",
    "QuantWindowMSA",
    "QuantizedBackbone",
    "QuantizedModel",
    "QuantizedTimmClassifier",
    "artifact_model",
    "backbone_of",
    "backbone_outputs",
    "calibration_function",
    "check_image_size",
    "convert_authors_swin",
    "has_authors_names",
    "output_function",
    "pixel_bounds",
    "policy_of",
    "quantize_in_place",
    "quantized_class",
    "register_tap",
    "takes_rgb",
    "without_downloads",
]

if find_spec("mmdet") is not None:
    from .backbones import QuantSwinTransformer  # noqa: F401

    __all__ += ["QuantSwinTransformer"]
