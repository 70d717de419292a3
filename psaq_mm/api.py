"""The Python API: quantize a model without data, save it, load it and export it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from torch import Tensor, nn

from .deployment import ExportWrapper, quantized_onnx
from .deployment.artifact import Artifact
from .deployment.export import FORMATS, check_target, write_model
from .deployment.export import export as export_artifact
from .engine.hooks.report import ReportHook
from .engine.job import Job
from .engine.preparation import open_config
from .engine.recipe import KEYS, default_recipe, parse_bits, recipe_of
from .errors import UsageError
from .in_memory import load_model, quantize_model, save_model
from .models import check_image_size, image_channels
from .quantization import CoverageReport
from .report import call_text, write_model_report
from .utils.atomic_files import save_json, save_with, writable_folder
from .visualization.samples import samples_picture

Progress = bool | Callable[[str, int, int], None]
FILES = ("quantized.py", "quantized.pth", "coverage.json", "results.json", "samples.pth", "samples.png")
REPORT = ("report.json", "report.html")
NUMBER = itertools.count()


@dataclass(frozen=True)
class Samples:
    """The images that the model was quantized with.

    Attributes:
        images: ``(count, channels, H, W)``, as network inputs.
        model: The float model; its data preprocessor defines the pixel values of the images.
    """

    images: Tensor
    model: nn.Module

    def __repr__(self) -> str:
        return f"Samples({len(self.images)} images of {tuple(self.images.shape[1:])})"

    def picture(self, count: int = 16) -> Any:
        """The newest images in a grid, as a PIL image, which notebooks display.

        Args:
            count: Number of images.
        """
        from PIL import Image

        return Image.fromarray(samples_picture(self.images[-count:], self.model))


@dataclass(frozen=True)
class Result:
    """A quantized model and the record of its quantization.

    Attributes:
        model: The quantized model in eval mode; an instance of the float model's own class.
        metrics: The evaluator's metrics, ``{'float': {...}, 'quantized': {...}}``; None without an evaluation.
        coverage: The quantized tensors and, for each float tensor, the reason why it is float.
        samples: The generated images.
        work_dir: The folder of the run; None for a model in memory.
        quantization: The keys of the policy that was applied.
        owner: Keeps a temporary ``work_dir`` until the result is deleted.
    """

    model: nn.Module
    metrics: dict[str, dict[str, Any]] | None
    coverage: CoverageReport
    samples: Samples
    work_dir: Path | None
    quantization: dict[str, Any]
    owner: Any = None

    def __repr__(self) -> str:
        parts = [type(self.model).__name__, "W{weight_bits}A{activation_bits}".format(**self.quantization)]
        parts.append(f"{self.coverage.quantized} tensors quantized, {self.coverage.fp} in floating point")
        return f"Result({', '.join(parts)}, metrics={self.metrics})"

    def save(self, folder: str | Path) -> Path:
        """Write the model in a form that :func:`load` reads and, for models of a config, also the hosts' own tools.

        For a model of a config these are ``quantized.py`` and ``quantized.pth``, which the test tools of mmdet, mmseg
        and mmpretrain read, ``coverage.json``, ``results.json``, the samples and the report. For a model in memory they
        are ``quantized.pth``, ``coverage.json``, ``samples.png`` and the report.

        Args:
            folder: The folder to write to. It is created if it does not exist; existing files are replaced.

        Returns:
            The folder.

        Raises:
            UsageError: The folder is not writable.
            PSAQError: A file cannot be written.
        """
        target = writable_folder(Path(folder))
        if self.work_dir is None:
            save_model(self.model, self.quantization, target)
            save_json(json.loads(self.coverage.to_json()), target / "coverage.json")
            save_with(lambda path: self.samples.picture().save(path), target / "samples.png")
            write_model_report(self.model, self.samples.model, self.samples.images, self.coverage, target)
            return target
        for name in (*FILES, *REPORT):
            source = self.work_dir / name
            if source.exists() and source.resolve() != (target / name).resolve():
                save_with(partial(shutil.copyfile, source), target / name)
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
            such a config itself; or a model in memory: a timm model, or a model of these libraries with a
            ``backbone``. A config without a ``dfq`` section gets the recipe of its library's full-size models.
        checkpoint: Path of the float checkpoint; default: the config's ``load_from``. Not for a model in memory.
        bits: Bits of weights and activations, such as ``'w4a8'``; default: the recipe's.
        image_size: Height and width of the generated images, or one number for both; default: the recipe's.
        seed: Seed of all random numbers. With the same seed, machine and number of threads, results are equal bit by
            bit.
        work_dir: Folder for the files of the run; default: a temporary folder, so call :meth:`Result.save`. Not for
            a model in memory, whose run writes no files.
        options: Further keys of the config by dotted name, such as ``{'dfq.generate.images': 64}``.
        evaluate: Whether to evaluate the float and the quantized model on the config's test set. The evaluation is
            skipped if the test set does not exist.
        progress: True for progress bars, False for no output, or a function that is called with the name of the
            stage, the number of steps done and the number of steps of the stage.

    Returns:
        The quantized model and the record of the run.

    Raises:
        UsageError: A setting is not valid.
        PSAQError: The checkpoint or a library is missing, or the run fails.
    """
    check_arguments(model, bits, seed, options, progress)
    options = {**(options or {}), "randomness.seed": seed}
    if isinstance(model, nn.Module):
        given = {"checkpoint": checkpoint, "work_dir": work_dir}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{wrong[0]} is for configs: a model in memory has its weights and writes no files")
        made = quantize_model(model, bits, image_size, seed, options, progress)
        return Result(made.model, None, made.coverage, Samples(made.images, made.teacher), None, made.quantization)
    folder = None
    if not work_dir:
        folder = tempfile.TemporaryDirectory(prefix="psaq_mm_")
        work_dir = folder.name
    cfg = recipe_config(model, options, work_dir, checkpoint)
    cfg.dfq = recipe_of(cfg, parse_bits(bits) if bits else None)
    cfg.dfq.progress = True  # the log goes to its file only
    if image_size is not None:
        cfg.dfq.generate.image_size = image_size
    if not evaluate:
        cfg.update(dict.fromkeys(("test_dataloader", "test_evaluator", "test_cfg")))
    # mmengine keeps loggers and visualizers by name until the process ends.
    cfg.experiment_name = f"quantize_{os.getpid()}_{next(NUMBER)}"
    if cfg.get("visualizer"):
        cfg.visualizer.name = cfg.experiment_name
    settings = {"checkpoint": checkpoint, "bits": bits, "image_size": image_size, "seed": seed or None}
    job = Job(cfg, Console(quiet=progress is not True), call_text(model, {**settings, "options": options}))
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


def check_arguments(model: Any, bits: Any, seed: Any, options: Any, progress: Any) -> None:
    """Check the types of the arguments of :func:`quantize`, and that no option is silently without effect.

    Raises:
        UsageError: An argument is not valid.
    """
    if not isinstance(model, (str, Path, Config, nn.Module)):
        raise UsageError(f"{type(model).__name__} is no model: give a recipe's name or path, a Config or a module")
    if bits is not None and not isinstance(bits, str):
        raise UsageError(f"bits {bits!r} cannot be read: write for example 'w8a8' or 'w4a8'")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed!r} is not valid: use a whole number from 0 to 2^32 - 1")
    if not isinstance(progress, bool) and not callable(progress):
        raise UsageError(f"progress {progress!r} is not valid: use True, False or a function")
    if options is not None and not isinstance(options, dict):
        raise UsageError(f"options {options!r} is no dictionary: write for example {{'dfq.generate.images': 64}}")
    for key in options or {}:
        if str(key).partition(".")[0] in KEYS or (isinstance(model, nn.Module) and not str(key).startswith("dfq.")):
            raise UsageError(f"option {key!r} is no key of a recipe: begin with 'dfq.', as in 'dfq.generate.images'")


def recipe_config(
    model: str | Path | Config, options: dict[str, Any], work_dir: str | Path, checkpoint: str | Path | None
) -> Config:
    """A config with a ``dfq`` section.

    Args:
        model: A name, a path or a config, which is not changed.
        options: Further keys of the config by dotted name.
        work_dir: The folder of the run.
        checkpoint: Path of the float checkpoint; None for the config's ``load_from``.

    Raises:
        UsageError: The config cannot be read, or its library has no default recipe.
    """
    cfg = open_config(model, {}, work_dir, checkpoint)
    if cfg.get("dfq") is None:
        cfg.dfq = default_recipe(cfg.get("default_scope"))
        cfg.runner_type = "psaq_mm.DFQRunner"
    cfg.merge_from_dict(options)
    return cfg


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
