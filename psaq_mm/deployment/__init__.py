"""Export of quantized models for integer engines, and exported files as backbones.

``layers`` holds layers with stored integers, ``operands`` their weights and activations; ``onnx_file``, ``int4`` and
``graph_passes`` write them as ONNX; ``parts`` cuts whole models into graphs; ``engines`` runs a file; ``operators``
summarises the profile of an engine; ``runtime`` holds the backbone and the heads that run files.
"""

from ..errors import ExportError
from .engines import ENGINES, Session, check_engine, open_session
from .layers import DeployConv2d, DeployConvTranspose2d, DeployLinear, DeployMatMul, deployed
from .onnx_file import (
    DEFAULT_OPSET,
    STORAGE,
    ExportWrapper,
    check_exporter,
    onnx_graph,
    onnx_model,
    quantized_onnx,
    save_onnx,
)
from .operands import ActivationQDQ
from .operators import KINDS, by_kind
from .runtime import RuntimeBackbone

__all__ = [
    "DEFAULT_OPSET",
    "ENGINES",
    "KINDS",
    "STORAGE",
    "ActivationQDQ",
    "DeployConv2d",
    "DeployConvTranspose2d",
    "DeployLinear",
    "DeployMatMul",
    "ExportError",
    "ExportWrapper",
    "RuntimeBackbone",
    "Session",
    "by_kind",
    "check_engine",
    "check_exporter",
    "deployed",
    "onnx_graph",
    "onnx_model",
    "open_session",
    "quantized_onnx",
    "save_onnx",
]
