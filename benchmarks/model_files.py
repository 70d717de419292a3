"""The files of whole models: each static part for each engine, with a config and a checkpoint that run them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from benchmarks.deployment_benchmark import FLOAT, INTEGER, SUFFIX, file_mib
from psaq_mm.cli import import_host
from psaq_mm.deployment import ENGINES, onnx_model, quantized_onnx
from psaq_mm.deployment.deployed_config import ExportedPart, model_config, placeholder
from psaq_mm.deployment.export import RUNS_ON, write_model
from psaq_mm.deployment.onnx_file import silence
from psaq_mm.deployment.parts import StaticPart, static_parts
from psaq_mm.models import backbone_of, image_channels, without_downloads
from psaq_mm.models.checkpoint import load_weights, read_checkpoint
from psaq_mm.models.hosts.types import buildable, types_as_names
from psaq_mm.utils.atomic_files import save_tensors

TORCH, NNCF = "torch", "nncf"
# What runs the files of a contender.
ENGINE_OF = {**{engine: engine for engine in ENGINES}, NNCF: "openvino"}
CONFIG, WEIGHTS = "model.py", "model.pth"
Contender = tuple[str, str]


class ModelFiles:
    """Writes a model's contenders, each to a folder of its own.

    Args:
        cfg: The recipe.
        folder: Where the folders are made.
        size: Height and width of the images.
        cores: Threads of the engines; 0 for their default.

    Attributes:
        files: For each contender but torch the file of each part.
    """

    def __init__(self, cfg: Config, folder: Path, size: tuple[int, int], cores: int) -> None:
        self.folder, self.size, self.threads = folder, size, cores
        self.scope = cfg.get("default_scope") or "mmengine"
        described = without_downloads(cfg.model)
        if cfg.get("data_preprocessor") is not None:
            described.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
        self.model: dict[str, Any] = types_as_names(described.to_dict())
        self.imports = types_as_names(cfg.get("custom_imports"))
        self.files: dict[Contender, dict[str, Path]] = {}

    def place(self, contender: Contender) -> Path:
        """The folder of a contender."""
        return self.folder / "-".join(contender)

    def export(self, precision: str, model: nn.Module, engines: Sequence[str] = ENGINES) -> None:
        """Write the parts of the float or of the calibrated model for engines."""
        make = onnx_model if precision == FLOAT else partial(quantized_onnx, required=False)
        channels = image_channels(backbone_of(model)[1])
        for part in static_parts(model):
            proto = part_onnx(part, self.size, channels, make)
            for engine in engines:
                path = self.path((engine, precision), part.name)
                kind = next(kind for kind, runs_on in RUNS_ON.items() if runs_on == engine)
                write_model(proto, path, kind)

    def path(self, contender: Contender, part: str) -> Path:
        """Where a part of a contender belongs; it is noted in :attr:`files`."""
        folder = self.place(contender)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{part}{SUFFIX[ENGINE_OF[contender[0]]]}"
        self.files.setdefault(contender, {})[part] = path
        return path

    def save_torch(self, teacher: nn.Module) -> None:
        """Write the float model of torch: a config and a checkpoint."""
        self._save((TORCH, FLOAT), copy.deepcopy(self.model), teacher.state_dict())

    def save_deployed(self, contender: Contender, teacher: nn.Module, parts: Sequence[StaticPart]) -> None:
        """Write the config and the checkpoint of a contender whose parts are written.

        Args:
            contender: The contender.
            teacher: The float model, which has the constants that the heads keep.
            parts: Its static parts.
        """
        files = self.files[contender]
        exported = [ExportedPart(part.name, part.covers, files[part.name].name) for part in parts]
        described = model_config(copy.deepcopy(self.model), exported, ENGINE_OF[contender[0]], whole=True)
        paths = {placeholder(path.name): str(path.resolve()) for path in files.values()}
        described = with_files(described, paths, self.threads)
        kept = build(Config(self._config(described))).state_dict().keys()
        self._save(contender, described, {k: v for k, v in teacher.state_dict().items() if k in kept})

    def _config(self, model: dict[str, Any]) -> dict[str, Any]:
        imports = {"imports": sorted({"psaq_mm", *(self.imports or {}).get("imports", [])})}
        return {"default_scope": self.scope, "custom_imports": imports, "model": model}

    def _save(self, contender: Contender, model: dict[str, Any], state: dict[str, Any]) -> None:
        folder = self.place(contender)
        folder.mkdir(parents=True, exist_ok=True)
        Config(self._config(model)).dump(folder / CONFIG)
        save_tensors({"meta": {}, "state_dict": state}, folder / WEIGHTS)

    def mib(self, contender: Contender, part: str | None = None) -> float | None:
        """Size of a part's file, or with None of all; that of the checkpoint for torch, which has no parts."""
        if contender[0] == TORCH:
            return (self.place(contender) / WEIGHTS).stat().st_size / 2**20 if part is None else None
        files = self.files[contender]
        if part is not None:
            return file_mib(files[part]) if part in files else None
        return sum(file_mib(path) for path in files.values())


def part_onnx(part: StaticPart, size: tuple[int, int], channels: int, make: Callable[..., Any]) -> Any:
    """A part as ONNX: one image, or any number of RoIs.

    Args:
        part: The part.
        size: Height and width of the images.
        channels: Their channels.
        make: :func:`psaq_mm.deployment.onnx_model` or :func:`psaq_mm.deployment.quantized_onnx`.
    """
    if part.input_shape is None:
        return make(part.graph, size, batch=1, channels=channels)
    return make(part.graph, part.input_shape[1:], batch=None, channels=part.input_shape[0], input_name="rois")


def with_files(described: Any, paths: dict[str, str], cores: int) -> Any:
    """A copy of a deployed model's config with the paths of its files and the number of threads."""
    if isinstance(described, dict):
        found = {key: with_files(value, paths, cores) for key, value in described.items()}
        return {**found, "threads": cores or None} if found.get("file") is not None and "engine" in found else found
    if isinstance(described, (list, tuple)):
        return type(described)(with_files(one, paths, cores) for one in described)
    return paths.get(described, described) if isinstance(described, str) else described


def build(cfg: Config) -> nn.Module:
    """Build a config's model in eval mode."""
    import_host(cfg)
    init_default_scope(cfg.default_scope)
    # Hosts warn about defaults of losses, which no prediction uses.
    with buildable(cfg, "model"), silence():
        model: nn.Module = HOST_MODELS.build(copy.deepcopy(cfg.model))
    model.eval()
    return model


def load_model(folder: Path) -> nn.Module:
    """Load a contender from its folder, as a program that only predicts does."""
    model = build(Config.fromfile(folder / CONFIG))
    load_weights(model, read_checkpoint(folder / WEIGHTS)["state_dict"], str(folder / WEIGHTS))
    model.requires_grad_(False)
    return model


__all__ = [
    "ENGINE_OF",
    "FLOAT",
    "INTEGER",
    "NNCF",
    "TORCH",
    "Contender",
    "ModelFiles",
    "build",
    "load_model",
    "part_onnx",
]
