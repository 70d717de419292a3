"""The package in Python: quantize a model without data, save it, load it, export it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from torch import Tensor, nn

from .deployment import ExportWrapper
from .deployment.artifact import FORMATS, Artifact, export_part
from .deployment.artifact import export as export_artifact
from .engine.hooks.report import ReportHook
from .engine.job import Job
from .engine.preparation import open_config
from .engine.recipe import default_recipe, parse_bits, recipe_of
from .errors import UsageError
from .in_memory import load_model, quantize_model, save_model
from .models import check_image_size, image_channels
from .quantization import CoverageReport
from .utils.atomic_files import save_json, save_with, writable_folder
from .visualization.samples import samples_picture

Progress = bool | Callable[[str, int, int], None]
FILES = ("quantized.py", "quantized.pth", "coverage.json", "results.json", "samples.pth", "samples.png")
NUMBER = itertools.count()


@dataclass(frozen=True)
class Samples:
    """The images that the model was quantized with.

    Attributes:
        images: ``(count, channels, H, W)``, as the network gets them.
        model: The float model, whose data preprocessor says what pixels they stand for.
    """

    images: Tensor
    model: nn.Module

    def picture(self, count: int = 16) -> Any:
        """The newest images side by side, as a PIL image; notebooks show it."""
        from PIL import Image

        return Image.fromarray(samples_picture(self.images[-count:], self.model))


@dataclass(frozen=True)
class Result:
    """A quantized model and the record of how it was made.

    Attributes:
        model: The quantized model in eval mode; an instance of the float model's own class.
        metrics: The evaluator's figures: ``{'float': {...}, 'quantized': {...}}``; None where nothing was evaluated.
        coverage: What is quantized and, for everything else, why it is not.
        samples: The generated images.
        work_dir: The folder of the run; None for a model in memory.
        quantization: The keys of the policy that was applied.
    """

    model: nn.Module
    metrics: dict[str, dict[str, Any]] | None
    coverage: CoverageReport
    samples: Samples
    work_dir: Path | None
    quantization: dict[str, Any]
    owner: Any = None

    def save(self, folder: str | Path) -> Path:
        """Write the model so that :func:`load` and, for models of a config, the hosts' own tools open it.

        A model of a config gives ``quantized.py`` and ``quantized.pth``, which mmdet's, mmseg's and mmpretrain's test
        tools take, beside ``coverage.json``, ``results.json`` and the samples. A model in memory gives
        ``quantized.pth``, ``coverage.json`` and ``samples.png``.

        Args:
            folder: Made where it does not exist; files of the same names are replaced.

        Returns:
            The folder.

        Raises:
            PSAQError: It cannot be written.
        """
        target = writable_folder(Path(folder))
        if self.work_dir is None:
            save_model(self.model, self.quantization, target)
            save_json(json.loads(self.coverage.to_json()), target / "coverage.json")
            save_with(lambda path: self.samples.picture().save(path), target / "samples.png")
            return target
        for name in FILES:
            source = self.work_dir / name
            if source.exists() and source.resolve() != (target / name).resolve():
                save_with(lambda path, source=source: shutil.copyfile(source, path), target / name)
        return target


def quantize(
    model: str | Path | Config | nn.Module,
    checkpoint: str | Path | None = None,
    bits: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    work_dir: str | Path | None = None,
    options: dict[str, Any] | None = None,
    evaluate: bool = True,
    progress: Progress = True,
) -> Result:
    """Quantize a trained model without data.

    Example::

        result = psaq_mm.quantize("mask_rcnn_swin_s_w8a8")
        result = psaq_mm.quantize("my_detector.py", checkpoint="det.pth", bits="w4a8")
        result = psaq_mm.quantize(timm.create_model("deit_tiny_patch16_224", pretrained=True), image_size=224)

    Args:
        model: A recipe of the package by name; the path of a recipe or of any config of mmdet, mmseg or mmpretrain;
            such a config itself; or a model in memory: one of timm's, or one of these libraries' with a ``backbone``.
            A config without a ``dfq`` section gets the recipe of its library's full-size models.
        checkpoint: The float checkpoint; default: the config's ``load_from``. Not for a model in memory.
        bits: Bits of weights and activations, such as ``'w4a8'``; default: the recipe's.
        image_size: Height and width of the generated images, or one number; default: the recipe's.
        seed: Of all random numbers; the same seed gives the same bits on the same machine with as many threads.
        work_dir: Where the run writes its files; default: a temporary folder, so use :meth:`Result.save`. Not for a
            model in memory, which writes nothing.
        options: Further keys of the config by dotted name, such as ``{'dfq.generate.images': 64}``.
        evaluate: Whether float and quantized model run on the config's test set; it is skipped where the test set
            does not exist.
        progress: True for progress bars, False for silence, or a function called with the stage, the steps done and
            the steps in all.

    Returns:
        The quantized model and the record of the run.

    Raises:
        UsageError: A setting is not valid; the message says what to change.
        PSAQError: The checkpoint or a library is missing, or the run cannot continue.
    """
    options = {**(options or {}), "randomness.seed": seed}
    if isinstance(model, nn.Module):
        given = {"checkpoint": checkpoint, "work_dir": work_dir}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{wrong[0]} is for configs: a model in memory has its weights and writes no files")
        made = quantize_model(model, bits, image_size, seed, options, progress)
        return Result(made.model, None, made.coverage, Samples(made.images, made.teacher), None, made.quantization)
    folder = None if work_dir else tempfile.TemporaryDirectory(prefix="psaq_mm_")
    cfg = recipe_config(model, options, work_dir or folder.name, checkpoint)
    cfg.dfq = recipe_of(cfg, parse_bits(bits) if bits else None)
    cfg.dfq.progress = True  # the log goes to its file
    if image_size is not None:
        cfg.dfq.generate.image_size = image_size
    if not evaluate:
        cfg.update(dict.fromkeys(("test_dataloader", "test_evaluator", "test_cfg")))
    # mmengine keeps loggers and visualisers by name for as long as a process lives.
    cfg.experiment_name = f"quantize_{os.getpid()}_{next(NUMBER)}"
    if cfg.get("visualizer"):
        cfg.visualizer.name = cfg.experiment_name
    job = Job(cfg, Console(quiet=progress is not True))
    job.runner.shows_progress = progress is True
    if callable(progress):
        job.runner.register_hook(ReportHook(progress))
    results = job.run()
    rows = [row.metrics for row in results.rows]
    metrics = {"float": rows[0], "quantized": rows[1]} if any(rows) else None
    runner = job.runner
    samples = Samples(runner.pool.images, runner.teacher)
    quantization = runner.quantization_record()
    return Result(runner.student, metrics, runner.coverage, samples, runner.folder, quantization, folder)


def recipe_config(
    model: str | Path | Config, options: dict[str, Any], work_dir: str | Path, checkpoint: str | Path | None
) -> Config:
    """A config with a ``dfq`` section, from a name, a path or a config; the config itself is not changed."""
    cfg = open_config(model, {}, work_dir, checkpoint)
    if cfg.get("dfq") is None:
        cfg.dfq = default_recipe(cfg.get("default_scope"))
        cfg.runner_type = "psaq_mm.DFQRunner"
    cfg.merge_from_dict(options)
    return cfg


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a model that :meth:`Result.save`, ``tools/dfq.py`` or :func:`quantize` with a ``work_dir`` wrote.

    Args:
        folder: The folder of ``quantized.pth``.
        model: A float model of the same architecture, for a model in memory that timm cannot make by name; it is
            not changed.

    Returns:
        The quantized model in eval mode.

    Raises:
        UsageError: The folder holds no quantized model.
        PSAQError: It cannot be read, or belongs to another model.
    """
    folder = Path(folder)
    if not (folder / "quantized.pth").exists():
        raise UsageError(f"{folder} holds no quantized model: give the folder of quantized.pth")
    if not (folder / "quantized.py").exists():
        return load_model(folder, model)
    return open_artifact(folder).model


def open_artifact(folder: Path) -> Artifact:
    """The quantized model of a folder with its config.

    Raises:
        UsageError: The folder holds no config.
    """
    if not (folder / "quantized.py").exists():
        raise UsageError(f"{folder} holds no quantized.py: only models of a config can be exported so far")
    return Artifact(open_config(folder / "quantized.py", work_dir=folder), folder / "quantized.pth")


def export(
    source: Result | str | Path,
    target: str | Path,
    size: tuple[int, int],
    batch: int = 1,
    part: str = "backbone",
    weights: str = "int8",
) -> list[Path]:
    """Export a quantized model for an integer engine.

    Args:
        source: A result, or a folder that holds one.
        target: ``NAME.onnx`` for ONNX with Q/DQ pairs, ``NAME.xml`` for OpenVINO.
        size: Height and width of its images.
        batch: Images in a batch.
        part: ``'backbone'`` or ``'backbone+neck'``.
        weights: How weights of 4 bits are stored: ``'int8'`` or ``'int4'``.

    Returns:
        What was written; last, where the model has a backbone, a config and a checkpoint with which the hosts' tools
        run the exported file.

    Raises:
        UsageError: The suffix or the size is not valid.
        ExportError: The model cannot be exported.
    """
    target = Path(target)
    kinds = {suffix: kind for kind, suffix in FORMATS.items()}
    if target.suffix not in kinds:
        raise UsageError(f"{target} ends neither in {' nor in '.join(kinds)}: the suffix says the format")
    kind = kinds[target.suffix]
    writable_folder(target.parent)
    if isinstance(source, Result) and source.work_dir is None:
        body = getattr(source.model, "backbone", source.model)  # timm's model is exported with its classes
        check_image_size(body, size)
        return export_part(
            ExportWrapper(body), target, kind, size, batch=batch, weights=weights, channels=image_channels(body)
        )
    folder = source.work_dir if isinstance(source, Result) else Path(source)
    return export_artifact(open_artifact(folder), target, kind, size, batch, part, weights=weights)
