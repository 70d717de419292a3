"""Analysis."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from ..engine.analysis.sensitivity import SensitivityRun
from ..engine.analysis.table import SensitivityTable
from ..engine.hooks.report import ReportHook
from ..in_memory import analyze_model
from .arguments import Progress, check_arguments, only_for_configs, recipe_config


def analyze(
    model: str | Path | Config | nn.Module,
    checkpoint: str | Path | None = None,
    bits: str | None = None,
    widths: Sequence[int] = (8, 6, 4, 3),
    images: int = 4,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    work_dir: str | Path | None = None,
    options: dict[str, Any] | None = None,
    progress: Progress = True,
    engine: str | None = None,
) -> SensitivityTable:
    """Measure how far the outputs of a model move when one tensor alone is quantized, on generated images.

    Example::

        table = psaq_mm.analyze("my_detector.py", checkpoint="det.pth", bits="w4a8", widths=(8, 6, 4, 3))
        overrides = table.overrides("size=0.125")    # weights of 4 bits on average, where they cost least
        result = psaq_mm.quantize(
            "my_detector.py", checkpoint="det.pth", bits="w4a8", options={"dfq.quantization.overrides": overrides}
        )

    Args:
        model: As for :func:`psaq_mm.quantize`.
        checkpoint: As for :func:`psaq_mm.quantize`.
        bits: Bits whose settings all widths have, such as the rotation of ``'w4a8'``; default: the recipe's.
        widths: Bit widths to measure, 2 to 8 each.
        images: Number of images on which the outputs are compared.
        image_size: Height and width of the generated images; default: the recipe's.
        seed: Seed of all random numbers.
        work_dir: Folder for ``sensitivity.json``, from which an interrupted analysis goes on, and ``sensitivity.csv``;
            default: no files. Not for a model in memory.
        options: Further keys of the config by dotted name.
        progress: As for :func:`psaq_mm.quantize`; the names of the stages are ``'analyze'`` and ``'latency'``.
        engine: ``'onnxruntime'`` or ``'openvino'``, to measure the time of each layer there too, for
            ``table.overrides("latency=0.5")``; default: no times.

    Returns:
        The sensitivity of each tensor at each width, and the times; ``table.to_csv(path)`` writes the rows as CSV.

    Raises:
        UsageError: A setting is not valid.
        PSAQError: The checkpoint, a library or the engine is missing.
    """
    check_arguments(model, bits, seed, options, progress)
    options = {**(options or {}), "randomness.seed": seed}
    if isinstance(model, nn.Module):
        only_for_configs(checkpoint=checkpoint, work_dir=work_dir)
        return analyze_model(model, bits, widths, images, image_size, seed, options, progress, engine)
    with tempfile.TemporaryDirectory(prefix="psaq_mm_") as scratch:
        folder = Path(work_dir or scratch)
        cfg = recipe_config(model, options, folder, checkpoint, bits, image_size)
        run = SensitivityRun(cfg, widths, folder, images, engine=engine)
        run.runner.shows_progress = progress is True
        if callable(progress):
            run.runner.register_hook(ReportHook(progress))
        return run.run()
