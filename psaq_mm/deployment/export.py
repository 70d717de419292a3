"""Export of an artifact's parts for an engine, with a config that runs the files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ExportError, UsageError
from ..models import backbone_of, check_image_size
from ..utils.atomic_files import save_with
from . import DEFAULT_OPSET, save_onnx
from .artifact import Artifact
from .deployed_config import ExportedPart, deployment_of
from .parts import IMAGES, StaticPart

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
RUNS_ON = {"onnx": "onnxruntime", "openvino": "openvino"}


def export(
    artifact: Artifact,
    target: Path,
    kind: str,
    sizes: Sequence[tuple[int, int]],
    batch: int = 1,
    part: str = "backbone",
    opset: int = DEFAULT_OPSET,
    weights: str = "int8",
) -> list[Path]:
    """Write the files of an engine, and a config and a checkpoint with which the host's tools run them.

    The part that computes on images is written once for each size: to ``target``, or with several sizes to
    ``NAME.HxW.onnx``. Each head on RoI features has a file of its own: ``NAME.bbox_head.onnx``,
    ``NAME.mask_head.2.onnx``. All parts are converted before the first file is written.

    Args:
        artifact: The quantized model.
        target: ``NAME.onnx`` or ``NAME.xml``.
        kind: ``'onnx'`` or ``'openvino'``.
        sizes: Height and width of the input images, at least one.
        batch: Images in a batch; batches of RoIs may have any size.
        part: ``'backbone'``, ``'backbone+neck'`` or ``'model'``, see :mod:`psaq_mm.deployment.parts`.
        opset: ONNX opset.
        weights: Storage type of 4-bit weights, see :func:`psaq_mm.deployment.quantized_onnx`.

    Returns:
        The written files: those of the engine (with the ``.bin`` beside an ``.xml``), and last ``NAME.py`` and
        ``NAME.pth``. The latter are missing for a network without a backbone, unless ``part`` is ``'model'``.

    Raises:
        UsageError: The suffix of the target does not fit ``kind``, a size does not fit the backbone, or the model has
            no such part.
        ExportError: OpenVINO is not installed, or an error of :func:`psaq_mm.deployment.onnx_model`.
    """
    name, backbone = backbone_of(artifact.model)
    check_target(target, kind)
    for size in sizes:
        check_image_size(backbone, size)
    converted = []
    for one in artifact.parts(part):
        for size in sizes if one.name == IMAGES else sizes[:1]:
            path = file_of(target, one, size if len(sizes) > 1 else None)
            converted.append((one, path, artifact.onnx(one, size, batch, opset, weights)))
    exported = [ExportedPart(one.name, one.covers, path.name) for one, path, _ in converted]
    runs = name == "backbone" or part == "model"
    deployment = deployment_of(artifact, RUNS_ON[kind], exported) if runs else None
    written = [file for _, path, proto in converted for file in write_model(proto, path, kind)]
    return [*written, *(deployment.save(target) if deployment else ())]


def file_of(target: Path, part: StaticPart, size: tuple[int, int] | None = None) -> Path:
    """The file of a part.

    Args:
        target: The file that the export was asked for.
        part: The part.
        size: The size of the images, if there are several.
    """
    label = f".{part.name}" if part.name != IMAGES else f".{size[0]}x{size[1]}" if size else ""
    return target.with_name(f"{target.stem}{label}{target.suffix}")


def check_target(target: Path, kind: str) -> None:
    """Check that a file of a format can be written.

    Raises:
        UsageError: The suffix of the target does not fit ``kind``.
        ExportError: OpenVINO is not installed.
    """
    suffix = FORMATS[kind]
    if target.suffix != suffix:
        raise UsageError(f"a file for {kind} ends in {suffix}: give {target.with_suffix(suffix)} instead of {target}")
    if kind == "openvino" and find_spec("openvino") is None:
        raise ExportError("openvino is not installed: pip install 'psaq_mm[deploy]'")


def write_model(proto: Any, target: Path, kind: str) -> list[Path]:
    """Write an ONNX model as a file for an engine.

    Args:
        proto: The result of :func:`psaq_mm.deployment.quantized_onnx`.
        target: ``NAME.onnx`` or ``NAME.xml``.
        kind: ``'onnx'`` or ``'openvino'``.

    Returns:
        The written files.
    """
    if kind == "onnx":
        save_with(lambda path: save_onnx(proto, path), target)
        return [target]
    save_openvino(proto, target)
    return [target, target.with_suffix(".bin")]


def save_openvino(proto: Any, target: Path) -> None:
    """Convert an ONNX model to OpenVINO's IR and write first ``NAME.bin``, then ``NAME.xml``."""
    import openvino

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as folder:
        onnx, xml = Path(folder, "model.onnx"), Path(folder, "model.xml")
        save_onnx(proto, onnx)
        # read_model, because the result of convert_model is a fifth larger and a tenth slower; no float16, because
        # it would change the outputs.
        openvino.save_model(openvino.Core().read_model(str(onnx)), str(xml), compress_to_fp16=False)
        for path, final in ((xml.with_suffix(".bin"), target.with_suffix(".bin")), (xml, target)):
            os.replace(path, final)
