"""Export to ONNX: stored integers, a pair of QuantizeLinear and DequantizeLinear before each product, all else float.

torch's exporter writes the graph, which is then made smaller.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from .graph_passes import compact, postpone_rearrangement
from .int4 import FIRST_OPSET, pack_int4
from .layers import deployed

INPUT = "images"
# The batch with which a graph of a dynamic batch is traced; 1 would be taken for a constant.
TRACED_BATCH = 4
# Opset 21 is the first with 4-bit integers, 18 the first that torch's exporter supports.
DEFAULT_OPSET, LOWEST_OPSET = 21, 18
STORAGE = ("int8", "int4")


class ExportWrapper(nn.Module):
    """Chains the exported parts of a model; its output is a tuple of tensors.

    Args:
        *parts: Modules in order, for example a backbone and a neck.
    """

    names: list[str]

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.names = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(batch, channels, H, W)`` to the outputs of the last part."""
        value: Any = images
        for part in self.parts:
            value = part(value)
        return (value,) if isinstance(value, Tensor) else tuple(value)


def onnx_model(
    model: nn.Module,
    size: tuple[int, int],
    batch: int | None = 1,
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
    channels: int = 3,
    input_name: str = INPUT,
) -> Any:
    """Convert a model to ONNX.

    Weights are stored as int8 with a scale for each output channel; those of fewer bits use only the middle of the int8
    range. Activations keep the calibrated scale and zero point. Biases, LayerNorm, softmax, GELU, residual sums and
    position biases are float.

    Args:
        model: A float model, or the result of :func:`deployed`; its output is a tuple of tensors, whose names are its
            ``names`` after a forward, or ``level0``, ``level1`` and so on.
        size: Height and width of the images.
        batch: Batch size; None for any.
        opset: ONNX opset, at least 18.
        metadata: Key-value pairs that are stored in the file.
        channels: Channels of the images.
        input_name: Name of the graph's input.

    Returns:
        An ``onnx.ModelProto``, checked by ``onnx.checker``.

    Raises:
        ExportError: A package is missing, torch or the opset is too old, or torch cannot export the model.
        QuantizationError: A quantizer is not calibrated.
    """
    check_exporter(opset)
    import onnx

    device = next(iter([*model.parameters(), *model.buffers()])).device
    images = torch.zeros(batch or TRACED_BATCH, channels, *size, device=device)
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    proto = onnx_graph(model, {input_name: images}, opset, shapes)
    onnx.helper.set_model_props(proto, dict(metadata or {}))
    return proto


def check_exporter(opset: int = DEFAULT_OPSET) -> None:
    """Check that this environment can write ONNX.

    Args:
        opset: ONNX opset.

    Raises:
        ExportError: A package is missing, or torch or the opset is too old.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ExportError(f"export needs {' and '.join(missing)}: pip install 'psaq_mm[deploy]'")
    if not hasattr(torch.onnx, "ops"):
        raise ExportError(
            f"export needs torch 2.8 or newer, this is {torch.__version__}: export with another environment, which may "
            "be one without the host's training tools"
        )
    if opset < LOWEST_OPSET:
        raise ExportError(f"opset {opset} is too old: torch's exporter starts at {LOWEST_OPSET}")


def onnx_graph(
    model: nn.Module, inputs: Mapping[str, Tensor], opset: int = DEFAULT_OPSET, dynamic_shapes: Any = None
) -> Any:
    """Trace a module with example inputs, and make the graph smaller (:mod:`.graph_passes`).

    Args:
        model: Its output is a tuple of tensors, see :func:`onnx_model`.
        inputs: The example inputs by name, in the order of the arguments.
        opset: ONNX opset.
        dynamic_shapes: Of ``torch.onnx.export``.

    Returns:
        An ``onnx.ModelProto``, checked by ``onnx.checker``.

    Raises:
        ExportError: torch cannot export the model.
    """
    import onnx

    with torch.no_grad(), silence():
        levels = len(model(*inputs.values()))
        try:
            program = torch.onnx.export(
                model,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=getattr(model, "names", None) or [f"level{index}" for index in range(levels)],
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ExportError(f"torch cannot export the model: {reason}") from error
    assert program is not None, "dynamo=True returns a program"
    proto = program.model_proto
    postpone_rearrangement(proto)
    compact(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def quantized_onnx(
    model: nn.Module,
    size: tuple[int, int],
    *,
    opset: int = DEFAULT_OPSET,
    weights: str = "int8",
    required: bool = True,
    **kwargs: Any,
) -> Any:
    """Convert a quantized model to ONNX with stored integers (:func:`deployed`, then :func:`onnx_model`).

    Args:
        model: A calibrated model.
        size: Height and width of the images.
        opset: ONNX opset, at least 18; for ``'int4'`` at least 21.
        weights: Storage type of 4-bit weights, one of :data:`STORAGE`: ``'int8'``, which engines multiply as integers,
            or ``'int4'``, which takes half the space, but which current engines convert to float.
        required: Whether a model without quantized layers, or without 4-bit weights for ``'int4'``, is an error.
        **kwargs: ``batch``, ``metadata``, ``channels`` and ``input_name`` of :func:`onnx_model`.

    Raises:
        ExportError: An error of :func:`onnx_model`, or ``'int4'`` with too old an opset or without 4-bit weights.
    """
    if weights == "int4" and opset < FIRST_OPSET:
        raise ExportError(f"opset {opset} is too old for INT4 weights: use {FIRST_OPSET} or newer")
    proto = onnx_model(deployed(model, required), size, opset=opset, **kwargs)
    if weights == "int4":
        import onnx

        if not pack_int4(proto) and required:
            raise ExportError("no weight fits into 4 bits: INT4 is for models quantized at 4 bits or fewer, use int8")
        onnx.checker.check_model(proto, full_check=True)
    return proto


def save_onnx(proto: Any, path: Path) -> None:
    """Write an ONNX model to one file."""
    import onnx

    onnx.save(proto, str(path))


@contextmanager
def silence() -> Iterator[None]:
    """Suppress output, log messages and warnings of the exporter; errors are raised as exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
