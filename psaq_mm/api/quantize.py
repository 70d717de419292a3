"""Quantization."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from torch import nn

from ..engine.hooks.report import ReportHook
from ..engine.job import Job
from ..in_memory import quantize_model
from ..report import call_text
from .arguments import Progress, check_arguments, only_for_configs, recipe_config
from .results import Result, Samples


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
        only_for_configs(checkpoint=checkpoint, work_dir=work_dir)
        made = quantize_model(model, bits, image_size, seed, options, progress)
        return Result(made.model, None, made.coverage, Samples(made.images, made.teacher), None, made.quantization)
    folder = None
    if not work_dir:
        folder = tempfile.TemporaryDirectory(prefix="psaq_mm_")
        work_dir = folder.name
    cfg = recipe_config(model, options, work_dir, checkpoint, bits, image_size)
    if not evaluate:
        cfg.update(dict.fromkeys(("test_dataloader", "test_evaluator", "test_cfg")))
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
    return Result(runner.student, metrics, runner.coverage, samples, runner.folder, quantization, job.verdict, folder)
