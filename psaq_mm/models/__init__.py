"""Models of OpenMMLab and timm: their attention, their quantized forms, their checkpoints and preprocessing."""

from typing import Any

from ..compat import check_environment

check_environment()

from .adapters.conversion import NormOrder
from .adapters.declaration import Adapter, register_adapter, transformer_blocks
from .adapters.decomposed import DecomposedAttention
from .adapters.generic import BlockTaps, limitation, taps_of
from .adapters.plain.torch_attention import QuantMmcvAttention, QuantTorchAttention
from .adapters.plain.vit import QuantAttention, QuantMultiheadAttention
from .adapters.taps import AttentionTaps
from .adapters.windows.swin import QuantWindowMSA
from .adapters.windows.swin_v2 import QuantWindowMSAV2
from .artifacts import artifact_model, without_downloads
from .backbones import backbone_of, quantized_class
from .checkpointing import without_checkpointing
from .converters.swin import convert_authors_swin, has_authors_names
from .converters.timm_vit import convert_timm_vit
from .entries import QuantizedBackbone, QuantizedModel, QuantizedTimmClassifier
from .features import OutputFunction, backbone_outputs, calibration_function, output_function, unreached
from .hosts import HOSTS, host_class, host_imports, named
from .image_size import check_image_size, try_image_size
from .preprocessing import PixelUnits, image_channels, pixel_bounds, pixel_units, takes_rgb
from .quantized import classifier_overrides, policy_of, quantize_in_place

__all__ = [
    "HOSTS",
    "Adapter",
    "AttentionTaps",
    "BlockTaps",
    "DecomposedAttention",
    "NormOrder",
    "OutputFunction",
    "PixelUnits",
    "QuantAttention",
    "QuantMmcvAttention",
    "QuantMultiheadAttention",
    "QuantTorchAttention",
    "QuantWindowMSA",
    "QuantWindowMSAV2",
    "QuantizedBackbone",
    "QuantizedModel",
    "QuantizedTimmClassifier",
    "artifact_model",
    "backbone_of",
    "backbone_outputs",
    "calibration_function",
    "check_image_size",
    "classifier_overrides",
    "convert_authors_swin",
    "convert_timm_vit",
    "has_authors_names",
    "host_imports",
    "image_channels",
    "limitation",
    "named",
    "output_function",
    "pixel_bounds",
    "pixel_units",
    "policy_of",
    "quantize_in_place",
    "quantized_class",
    "register_adapter",
    "takes_rgb",
    "taps_of",
    "transformer_blocks",
    "try_image_size",
    "unreached",
    "without_checkpointing",
    "without_downloads",
]


def __getattr__(name: str) -> Any:
    # mmdet is imported when its quantized class is asked for
    if name == "QuantSwinTransformer":
        cls = host_class("mmdet.SwinTransformer")
        if cls is not None:
            return quantized_class(cls)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
