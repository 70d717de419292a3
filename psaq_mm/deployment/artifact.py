"""Export of an artifact (``quantized.py`` and ``quantized.pth``) for an engine, with a config that runs the file."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from ..compat import versions
from ..errors import UsageError
from ..models import backbone_of, check_image_size, image_channels, policy_of
from ..models.checkpoint import load_weights, read_checkpoint
from ..models.host_types import buildable
from ..quantization import check_calibrated, coverage
from ..utils.atomic_files import save_tensors, save_with
from . import DEFAULT_OPSET, ExportError, ExportWrapper, quantized_onnx, save_onnx

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
RUNS_ON = {"onnx": "onnxruntime", "openvino": "openvino"}
# Placeholder for the path of the exported file in the written config.
PLACE = "<exported file>"
PARTS = {"backbone": ("backbone",), "backbone+neck": ("backbone", "neck")}


class Artifact:
    """A quantized model that ``tools/dfq.py`` wrote.

    Args:
        cfg: The config ``quantized.py``.
        checkpoint: Path of ``quantized.pth``.

    Attributes:
        cfg: A copy of the config, without ``load_from``.
        quantization: The keys of the policy.
        meta: The checkpoint's ``meta``.
        state: The state dict.
        model: The model in eval mode.

    Raises:
        UsageError: The config has no quantized model.
        PSAQError: The checkpoint is missing, belongs to another config or holds a float model.
        QuantizationError: The model is not calibrated.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path) -> None:
        init_default_scope(cfg.get("default_scope") or "mmengine")
        owner = cfg.model if "quantization" in cfg.model else cfg.model.get("backbone") or {}
        if "quantization" not in owner:
            raise UsageError(f"{cfg.filename} names no quantized model: give the quantized.py that tools/dfq.py left")
        self.cfg, self.quantization = copy.deepcopy(cfg), owner["quantization"].to_dict()
        self.cfg.load_from = None  # a path of this machine, but the config is copied to others with the exported file
        loaded = read_checkpoint(checkpoint, hint="give the quantized.pth that tools/dfq.py left beside the config")
        self.meta, self.state = loaded["meta"], loaded["state_dict"]
        model = copy.deepcopy(cfg.model)
        if cfg.get("data_preprocessor") is not None:
            model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
        with buildable(cfg, "model"):
            self.model: nn.Module = HOST_MODELS.build(model)
        load_weights(self.model, self.state, str(checkpoint))
        self.model.eval()
        check_calibrated(self.model)
        self._converted: tuple[tuple[Any, ...], Any] | None = None

    def onnx(self, part: str, size: tuple[int, int], batch: int, opset: int, weights: str) -> Any:
        """A part of the model as ONNX; the last result is kept, so that a second format costs no second conversion.

        Args:
            part: A key of :data:`PARTS`.
            size: Height and width of the input images.
            batch: Batch size.
            opset: ONNX opset.
            weights: Storage type of 4-bit weights, see :func:`psaq_mm.deployment.quantized_onnx`.

        Raises:
            UsageError: The model has no such part.
            ExportError: An error of :func:`psaq_mm.deployment.quantized_onnx`.
        """
        asked = (part, tuple(size), batch, opset, weights)
        if self._converted is None or self._converted[0] != asked:
            channels = image_channels(backbone_of(self.model)[1])
            options: dict[str, Any] = {"batch": batch, "opset": opset, "weights": weights, "channels": channels}
            proto = quantized_onnx(self.part(PARTS[part]), size, metadata=self.metadata(), **options)
            self._converted = asked, proto
        return self._converted[1]

    def part(self, names: Sequence[str]) -> ExportWrapper:
        """The parts of the model with these names, chained for the export.

        Raises:
            UsageError: The model has no such part.
        """
        parts = []
        for name in names:
            # backbone_of, because the wrapper of timm's classifiers names it otherwise
            part = backbone_of(self.model)[1] if name == "backbone" else getattr(self.model, name, None)
            if part is None:
                raise UsageError(f"{type(self.model).__name__} has no {name}: export its backbone alone")
            parts.append(part)
        return ExportWrapper(*parts)

    def metadata(self) -> dict[str, str]:
        """Metadata of the exported file: config, quantization, versions and coverage."""
        policy, _ = policy_of(self.quantization)
        report = coverage(self.model, policy)
        return {
            "psaq_mm.config": self.cfg.pretty_text,
            "psaq_mm.quantization": json.dumps(self.meta.get("psaq_mm", self.quantization)),
            "psaq_mm.versions": json.dumps(versions()),
            "psaq_mm.coverage": report.to_json(),
        }


def export(
    artifact: Artifact,
    target: Path,
    kind: str,
    size: tuple[int, int],
    batch: int = 1,
    part: str = "backbone",
    opset: int = DEFAULT_OPSET,
    weights: str = "int8",
) -> list[Path]:
    """Write a file for an engine, and a config and a checkpoint with which the host's tools run it.

    Args:
        artifact: The quantized model.
        target: ``NAME.onnx`` or ``NAME.xml``.
        kind: ``'onnx'`` or ``'openvino'``.
        size: Height and width of the input images.
        batch: Batch size.
        part: A key of :data:`PARTS`.
        opset: ONNX opset.
        weights: Storage type of 4-bit weights, see :func:`psaq_mm.deployment.quantized_onnx`.

    Returns:
        The written files: ``target``, the ``.bin`` beside an ``.xml``, and last, if the model has a backbone,
        ``NAME.py`` and ``NAME.pth``.

    Raises:
        UsageError: The suffix of the target does not fit ``kind``, or the size does not fit the backbone.
        ExportError: OpenVINO is not installed, or an error of :func:`psaq_mm.deployment.onnx_model`.
    """
    name, backbone = backbone_of(artifact.model)
    check_target(target, kind)
    check_image_size(backbone, size)
    written = write_model(artifact.onnx(part, size, batch, opset, weights), target, kind)
    if name != "backbone":
        return written
    return [*written, *save_deployment(artifact, target, kind, PARTS[part])]


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


def beside_the_config(name: str) -> str:
    """A Python expression, for the text of a config, for the path of a file in the config's folder.

    mmengine replaces ``fileDirname`` by the folder before it parses the text, so the files can be moved together.
    Triple quotes allow folders with a quote in their names (``O'Brien``); mmengine turns backslashes into slashes.
    """
    return "r'''{{ fileDirname }}''' + " + repr("/" + name)


def quantization_without(artifact: Artifact, parts: Sequence[str]) -> dict[str, Any]:
    """The quantization of the parts that are not exported, without overrides that would match no module of these."""
    left = [name for name, _ in artifact.model.named_modules() if name and name.partition(".")[0] not in parts]
    overrides = artifact.quantization.get("overrides") or ()
    kept = [one for one in overrides if any(fnmatchcase(name, one["pattern"]) for name in left)]
    return {**artifact.quantization, "overrides": kept}


def save_deployment(artifact: Artifact, target: Path, kind: str, parts: Sequence[str]) -> tuple[Path, Path]:
    """Write a config with a RuntimeBackbone, and a checkpoint with the weights of all other parts.

    Args:
        artifact: The quantized model.
        target: The exported file.
        kind: A key of :data:`FORMATS`.
        parts: Names of the exported parts.

    Returns:
        The config ``NAME.py`` and the checkpoint ``NAME.pth`` beside the file.
    """
    plain = copy.deepcopy(artifact.cfg.to_dict())
    plain["model"]["backbone"] = {"type": "psaq_mm.RuntimeBackbone", "file": PLACE, "engine": RUNS_ON[kind]}
    if "neck" in parts:
        plain["model"]["neck"] = None
    if "quantization" in plain["model"]:  # scope model: the other parts stay quantized in torch
        plain["model"]["quantization"] = quantization_without(artifact, parts)
    config, checkpoint = target.with_suffix(".py"), target.with_suffix(".pth")
    text = Config(plain).pretty_text.replace(repr(PLACE), beside_the_config(target.name))
    save_with(lambda path: path.write_text(text, encoding="utf-8"), config)
    kept = {key: value for key, value in artifact.state.items() if key.partition(".")[0] not in parts}
    save_tensors({"meta": artifact.meta, "state_dict": kept}, checkpoint)
    return config, checkpoint
