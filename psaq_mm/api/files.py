"""Loading and exporting of quantized models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..deployment import ExportWrapper, quantized_onnx
from ..deployment.artifact import Artifact
from ..deployment.export import FORMATS, check_target, write_model
from ..deployment.export import export as export_artifact
from ..engine.preparation import open_config
from ..errors import UsageError
from ..in_memory import load_model
from ..models import check_image_size, image_channels
from ..utils.atomic_files import writable_folder
from .results import Result


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a quantized model written by :meth:`Result.save`, ``tools/dfq.py`` or :func:`quantize` with a ``work_dir``.

    Args:
        folder: The folder of ``quantized.pth``.
        model: A float model of the same architecture, which is not changed. Needed for a model in memory that timm
            cannot create by name.

    Returns:
        The quantized model in eval mode.

    Raises:
        UsageError: The folder holds no quantized model.
        PSAQError: The checkpoint cannot be read, or belongs to another model.
    """
    folder = Path(folder)
    if not (folder / "quantized.pth").exists():
        raise UsageError(f"{folder} holds no quantized model: give the folder of quantized.pth")
    if not (folder / "quantized.py").exists():
        return load_model(folder, model)
    return open_artifact(folder).model


def open_artifact(folder: Path) -> Artifact:
    """The quantized model in a folder, together with its config.

    Raises:
        UsageError: The folder holds no config.
    """
    if not (folder / "quantized.py").exists():
        raise UsageError(f"{folder} holds no quantized.py: export the Result of a model in memory itself")
    return Artifact(open_config(folder / "quantized.py", work_dir=folder), folder / "quantized.pth")


def export(
    source: Result | str | Path,
    target: str | Path,
    size: int | tuple[int, int] | list[tuple[int, int]],
    batch: int = 1,
    part: str = "backbone",
    weights: str = "int8",
) -> list[Path]:
    """Export a quantized model for an integer engine.

    Args:
        source: A result, or a folder that :meth:`Result.save` wrote.
        target: ``NAME.onnx`` for ONNX with Q/DQ pairs, ``NAME.xml`` for OpenVINO.
        size: Height and width of the input images, or one number for both; a list of pairs for several sizes in one
            deployment, each with a file.
        batch: Batch size.
        part: ``'backbone'``, ``'backbone+neck'``, or ``'model'``: all but the host's own code between the graphs, such
            as NMS and RoIAlign.
        weights: Storage type of 4-bit weights: ``'int8'`` or ``'int4'``.

    Returns:
        The written files. For a model of a config that has a backbone, and for ``part='model'``, the last two are a
        config and a checkpoint with which the hosts' tools run the exported files.

    Raises:
        UsageError: The suffix or the size is not valid.
        ExportError: The model cannot be exported.
    """
    if isinstance(source, nn.Module):
        raise UsageError("a bare module has no record to export: give the Result, or the folder that it was saved to")
    sizes = size if isinstance(size, list) else [(size, size) if isinstance(size, int) else size]
    if not sizes or not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in sizes):
        raise UsageError(f"size {size!r} is not valid: give a number, (height, width), or a list of such pairs")
    target = Path(target)
    kinds = {suffix: kind for kind, suffix in FORMATS.items()}
    if target.suffix not in kinds:
        raise UsageError(f"{target} ends neither in {' nor in '.join(kinds)}: the suffix selects the format")
    kind = kinds[target.suffix]
    writable_folder(target.parent)
    if not isinstance(source, Result):
        folder = Path(source)
    elif source.work_dir is not None:
        folder = source.work_dir
    else:
        body = getattr(source.model, "backbone", source.model)  # timm models are exported with their classifier
        if len(sizes) != 1:
            raise UsageError("a model in memory is exported in one size: call export once for each")
        if part != "backbone" and body is not source.model:
            raise UsageError(
                f"a model in memory is quantized and exported without its head: for part={part!r}, quantize a config"
            )
        check_image_size(body, sizes[0])
        check_target(target, kind)
        options: dict[str, Any] = {"batch": batch, "weights": weights, "channels": image_channels(body)}
        return write_model(quantized_onnx(ExportWrapper(body), sizes[0], **options), target, kind)
    return export_artifact(open_artifact(folder), target, kind, sizes, batch, part, weights=weights)
