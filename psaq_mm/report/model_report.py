"""The report of a model that was quantized in memory, without a config and without an evaluation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..models import backbone_outputs
from ..quantization import CoverageReport
from .build import Run, conditions, report_of
from .render import write_report

LOGGER = logging.getLogger(__name__)


def run_of(model: nn.Module, teacher: nn.Module, images: Tensor, coverage: CoverageReport) -> Run:
    """What the report is made of.

    Args:
        model: The quantized model.
        teacher: The float model with a data preprocessor.
        images: The samples, ``(count, channels, H, W)``, as network inputs.
        coverage: The quantized and the float tensors.
    """
    name = type(model).__name__
    bits = sorted({row.bits for row in coverage.rows if row.bits is not None})
    facts = {
        "model": name,
        "bits": ", ".join(map(str, bits)),
        "generated images": str(len(images)),
        **conditions(next(model.parameters()).device),
    }
    return Run(
        title=(getattr(model, "pretrained_cfg", None) or {}).get("architecture") or name,
        teacher=teacher,
        student=model,
        images=images,
        coverage=coverage,
        forward=forward,
        facts=facts,
        command="psaq_mm.quantize(model)  # in Python, a model in memory",
        no_figures="a model in memory has no test set",
        warn=LOGGER.warning,
    )


def forward(model: nn.Module, images: Tensor) -> Any:
    """Run the backbone of a model of OpenMMLab, or a whole timm model."""
    return backbone_outputs(model, images) if hasattr(model, "test_step") else model(images)


def write_model_report(
    model: nn.Module, teacher: nn.Module, images: Tensor, coverage: CoverageReport, folder: Path
) -> None:
    """Write the report of a model in memory; failures are warnings.

    Args:
        model: The quantized model.
        teacher: The float model with a data preprocessor.
        images: The samples, as network inputs.
        coverage: The quantized and the float tensors.
        folder: The folder to write to.
    """
    try:
        write_report(report_of(run_of(model, teacher, images, coverage)), folder)
    except Exception as error:  # the model itself has been written
        LOGGER.warning("no report was written (%s: %s)", type(error).__name__, error)
