"""Where quantization and generation meet real architectures."""

from importlib.util import find_spec

from ..compat import check_environment

check_environment()

from .adapters.decomposed import DecomposedAttention
from .adapters.swin import QuantWindowMSA
from .adapters.taps import AttentionTaps, register_tap
from .adapters.torch_attention import QuantMmcvAttention, QuantTorchAttention
from .adapters.vit import QuantAttention, QuantMultiheadAttention
from .artifacts import HOSTS, artifact_model, named, without_downloads
from .backbones import QuantizedBackbone, QuantizedTimmClassifier, backbone_of, quantized_class
from .checkpointing import without_checkpointing
from .converters.swin import convert_authors_swin, has_authors_names
from .features import OutputFunction, backbone_outputs, calibration_function, output_function
from .image_size import check_image_size, try_image_size
from .preprocessing import PixelUnits, image_channels, pixel_bounds, pixel_units, takes_rgb
from .quantized import QuantizedModel, policy_of, quantize_in_place

__all__ = [
    "HOSTS",
    "AttentionTaps",
    "DecomposedAttention",
    "OutputFunction",
    "PixelUnits",
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
    "image_channels",
    "named",
    "output_function",
    "pixel_bounds",
    "pixel_units",
    "policy_of",
    "quantize_in_place",
    "quantized_class",
    "register_tap",
    "takes_rgb",
    "try_image_size",
    "without_checkpointing",
    "without_downloads",
]

if find_spec("mmdet") is not None:
    from .backbones import QuantSwinTransformer  # noqa: F401

    __all__ += ["QuantSwinTransformer"]
