"""Sensitivity of a model in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..deployment import check_engine, check_exporter
from ..engine.analysis.latency import BITS, LayerTimes, calls_of
from ..engine.analysis.latency import STAGE as LATENCY
from ..engine.analysis.measure import STAGE, measure
from ..engine.analysis.table import SensitivityTable, at_width, checked_widths, recipe_bits
from ..models import backbone_outputs
from .events import ProgressEvents
from .models import TimmModel, quantize_body
from .quantize import Run, prepared

BATCH = 8


def analyze_model(
    model: nn.Module,
    bits: str | None,
    widths: Sequence[int],
    count: int,
    image_size: int | tuple[int, int] | None,
    seed: int,
    options: dict[str, Any],
    progress: bool | Callable[[str, int, int], None],
    engine: str | None = None,
) -> SensitivityTable:
    """Measure the sensitivity of every quantized tensor of a model in memory.

    Args:
        model: The float model, which is not changed.
        bits: See :func:`psaq_mm.analyze`, as for all other arguments.
        widths: Bit widths.
        count: Number of images on which the outputs are compared.
        image_size: Height and width of the generated images.
        seed: Seed of all random numbers.
        options: Further keys of the recipe.
        progress: How progress is shown.
        engine: Where the time of each layer is measured too.

    Raises:
        UsageError: The model is not supported, or a setting is not valid.
        ExportError: The engine is unknown or not installed, or ONNX cannot be written.
    """
    chosen = checked_widths(widths)
    if engine is not None:
        check_engine(engine)
        check_exporter()
    teacher, recipe, size = prepared(model, bits, image_size, options)
    recipe.generate.images = max(recipe.generate.images, count)
    quantization = dict(recipe.quantization)
    classes = isinstance(teacher, TimmModel)

    def outputs(one: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return backbone_outputs(one, images), [one(images)] if classes else []

    events = ProgressEvents(progress)
    try:
        run = Run(teacher, recipe, size, seed, events)
        run.generate()
        batches = run.pool.first(count).split(BATCH)
        table = SensitivityTable(
            config=type(model).__name__,
            identity=run.pool.sha256(),
            source="generated",
            count=count,
            size=size,
            seed=seed,
            bits=(quantization.get("weight_bits", 8), quantization.get("activation_bits", 8)),
            recipe_bits=recipe_bits(quantized_copy(teacher, quantization)),
        )
        networks = (quantized_copy(teacher, at_width(quantization, width)) for width in chosen)
        steps = measure(table, networks, run.calibrate, batches, [outputs] * len(batches), classes)
        for step, total in steps:
            if step == 1:
                events.begin(STAGE, total)
            events.step(STAGE, step)
        if engine is not None:
            network, image = quantized_copy(teacher, at_width(quantization, BITS)), batches[0][:1]
            calls = calls_of(network, lambda one: one(image) if classes else backbone_outputs(one, image))
            timer = LayerTimes(network, calls, engine, table.latency.setdefault(engine, {}))
            events.begin(LATENCY, len(timer))
            for step in timer:
                events.step(LATENCY, step)
    finally:
        events.close()
    table.sort()
    return table


def quantized_copy(teacher: nn.Module, quantization: dict[str, Any]) -> nn.Module:
    """A quantized copy of a teacher in eval mode, not calibrated."""
    student = copy.deepcopy(teacher)
    quantize_body(student, dict(quantization))
    student.eval()
    return student
