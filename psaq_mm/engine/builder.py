"""A recipe's float and quantized model: how a run and the benchmarks get them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from ..distillation import Teacher
from ..errors import PSAQError, UsageError
from ..generation import GenerationError
from ..models import (
    AttentionTaps,
    artifact_model,
    backbone_of,
    backbone_outputs,
    pixel_units,
    without_checkpointing,
    without_downloads,
)
from ..models.checkpoint import how_to_get, load_weights, read_checkpoint
from ..models.host_types import buildable
from ..quantization import QuantizationError, quantized_layers
from .recipe import recipe_of


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what quantization and generation say of a wrong setting into a usage error."""
    try:
        yield
    except (QuantizationError, GenerationError) as error:
        raise UsageError(str(error)) from None


def load_teacher(teacher: nn.Module, path: str, cfg: Config, otherwise: str = "") -> dict[str, Any]:
    """Load the float checkpoint, safely and completely.

    Args:
        teacher: The float model.
        path: Of the checkpoint.
        cfg: Its recipe, which says where a missing one can be had.
        otherwise: What else can be done about a missing one.

    Returns:
        What the checkpoint says of itself.
    """
    loaded = read_checkpoint(path, hint=how_to_get(Path(path), cfg) + otherwise)
    load_weights(teacher, loaded["state_dict"], path)
    return loaded["meta"]


def teacher_of(model: nn.Module) -> Teacher:
    """A float model as the algorithm uses it: its outputs, the taps on its attention, the units of its images."""
    return Teacher(model, backbone_outputs, lambda: AttentionTaps(backbone_of(model)[1]), pixel_units(model))


def build_student(artifact: ConfigDict, teacher: nn.Module) -> nn.Module:
    """The quantized model as an artifact config names it, with the teacher's weights, in eval mode.

    Raises:
        UsageError: The quantization is not valid.
        PSAQError: The teacher's weights do not fit.
    """
    with usage_errors():
        # A copy, since mmpretrain's models write into their configs.
        student = HOST_MODELS.build(copy.deepcopy(artifact))
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    own = [key for key in missing if "quantizer." not in key]
    if own or unexpected:
        raise PSAQError(f"the quantized model does not take the float weights: {(own + list(unexpected))[:3]}")
    # In eval with gradients on: drop-path or batch statistics would be part of the distance.
    student.eval()
    without_checkpointing(student)
    # frozen_stages of the config saved the float model's training some work, and eval() of the hosts' backbones brings
    # it back: rounding errs in those stages too, so the student trains them like the rest.
    for layer in quantized_layers(student):
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.requires_grad_(True)
    return student


def build_pair(cfg: Config, random: bool = False) -> tuple[nn.Module, nn.Module]:
    """The teacher and the student of a recipe, frozen; the student is not calibrated yet.

    Args:
        cfg: A recipe.
        random: Whether weights are the initialisation's, which changes no time; else ``load_from`` is loaded.

    Raises:
        UsageError: The recipe names no checkpoint.
        PSAQError: The checkpoint is missing or of another model.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    described = without_downloads(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        described.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    artifact = artifact_model(ConfigDict(described), dict(recipe_of(cfg).get("quantization", {})))
    with buildable(cfg, "model"):
        teacher = HOST_MODELS.build(copy.deepcopy(described))
    if not random:
        if not cfg.get("load_from"):
            raise UsageError("the recipe names no checkpoint: give --checkpoint, or --random for random weights")
        load_teacher(teacher, cfg.load_from, cfg, ", or give --random")
    student = build_student(artifact, teacher)
    for model in (teacher, student):
        model.eval()
        without_checkpointing(model)
        model.requires_grad_(False)
    return teacher, student
