"""Builders of the float and the quantized model of a recipe, for runs and benchmarks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from ..distillation import Teacher
from ..errors import PSAQError, UsageError
from ..generation import GenerationError
from ..models import (
    artifact_model,
    backbone_of,
    backbone_outputs,
    calibration_function,
    check_image_size,
    image_channels,
    limitation,
    pixel_units,
    policy_of,
    taps_of,
    unreached,
    without_checkpointing,
    without_downloads,
)
from ..models.artifacts import by_detector_names
from ..models.checkpoint import how_to_get, load_weights, read_checkpoint
from ..models.hosts.language import set_text
from ..models.hosts.types import buildable
from ..quantization import QuantizationError, QuantPolicy, quantized_layers
from .recipe import recipe_of


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Convert errors of quantization and generation settings to usage errors."""
    try:
        yield
    except (QuantizationError, GenerationError) as error:
        raise UsageError(str(error)) from None


def load_teacher(teacher: nn.Module, path: str, cfg: Config, otherwise: str = "") -> dict[str, Any]:
    """Load all weights of the float checkpoint, without executing code from it.

    Args:
        teacher: The float model.
        path: Path or URL of the checkpoint.
        cfg: The recipe, from which the hint for a missing checkpoint is made.
        otherwise: Further text for this hint.

    Returns:
        The checkpoint's ``meta`` dictionary.

    Raises:
        PSAQError: The checkpoint is missing, cannot be read or belongs to another model.
    """
    loaded = read_checkpoint(path, hint=how_to_get(Path(path), cfg) + otherwise)
    load_weights(teacher, loaded["state_dict"], path)
    set_text(teacher, cfg, loaded["meta"])
    return loaded["meta"]


def teacher_of(model: nn.Module) -> Teacher:
    """Wrap a float model for the algorithm, with its outputs, taps and pixel units.

    A backbone without an adapter is announced by a warning in mmengine's current log.
    """
    backbone = backbone_of(model)[1]
    missing = limitation(backbone)
    if missing is not None:
        # not by print_log, whose records count as mmengine's and stay off the terminal
        MMLogger.get_current_instance().warning(missing)
    return Teacher(model, backbone_outputs, lambda: taps_of(backbone), pixel_units(model))


@contextlib.contextmanager
def runs_whole(model: nn.Module, size: tuple[int, int]) -> Iterator[None]:
    """Turn an error of a host's model on images without annotations into one line.

    Args:
        model: The float model that runs in the block.
        size: Height and width of the images.

    Raises:
        UsageError: The model raised an error.
    """
    try:
        yield
    except (PSAQError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # hosts raise errors of any kind
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UsageError(
            f"{type(model).__name__} does not run as a whole on images of {size[0]}x{size[1]} without annotations "
            f"({type(error).__name__}: {reason}): use scope 'backbone', or larger images"
        ) from error


def keep_unreached(artifact: ConfigDict, teacher: nn.Module, size: tuple[int, int], policy: QuantPolicy) -> QuantPolicy:
    """Keep those layers of a whole model FP that calibration does not reach, by overrides in the artifact's policy.

    Args:
        artifact: The config of the quantized model; overrides are added in scope ``model``.
        teacher: The float model in eval mode.
        size: Height and width of images of noise that pass through it.
        policy: The recipe's policy. In scope ``model`` that of the artifact is taken, whose patterns are the whole
            model's.

    Returns:
        The policy of the artifact.

    Raises:
        UsageError: The model cannot be quantized as a whole.
    """
    if artifact.type != "psaq_mm.QuantizedModel" or artifact.quantization.get("scope") == "backbone":
        return replace(policy, overrides=by_detector_names(artifact, policy.overrides))
    policy, _ = policy_of(artifact.quantization)
    like = next(teacher.parameters())
    # A generator of its own, so that the random numbers of the run stay the same.
    # Two images, because norms refuse a single value.
    noise = torch.randn(2, image_channels(backbone_of(teacher)[1]), *size, generator=torch.Generator().manual_seed(0))
    forward = calibration_function("model", teacher)
    with runs_whole(teacher, size):
        names = unreached(teacher, forward, noise.to(like.device, like.dtype))
    reason = "no image of the calibration reaches it"
    added = [{"pattern": name, "keep_fp": True, "reason": reason} for name in names if policy.specs(name) is not None]
    policy = replace(policy, overrides=(*policy.overrides, *added))
    artifact.quantization = policy.to_config()
    return policy


def build_student(artifact: ConfigDict, teacher: nn.Module) -> nn.Module:
    """Build the quantized model with the teacher's weights, in eval mode.

    Args:
        artifact: The config of the quantized model.
        teacher: The float model.

    Raises:
        UsageError: The quantization is not valid.
        PSAQError: The teacher's weights do not fit.
    """
    with usage_errors():
        # A copy, because models of mmpretrain change their configs.
        student = HOST_MODELS.build(copy.deepcopy(artifact))
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    own = [key for key in missing if "quantizer." not in key]
    if own or unexpected:
        raise PSAQError(f"the quantized model does not take the float weights: {(own + list(unexpected))[:3]}")
    # In eval mode even for training: drop path and batch statistics would add to the discrepancy.
    student.eval()
    without_checkpointing(student)
    # frozen_stages of the config turns off gradients, and eval() of the hosts' backbones does so again. These stages
    # have quantization errors too, so the student trains them as all others.
    for layer in quantized_layers(student):
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.requires_grad_(True)
    return student


def build_pair(cfg: Config, random: bool = False, size: tuple[int, int] | None = None) -> tuple[nn.Module, nn.Module]:
    """Build the teacher and the student of a recipe, frozen; the student is not calibrated.

    Args:
        cfg: A recipe.
        random: Whether to keep the random initial weights, which suffice to measure times; else ``load_from`` is
            loaded.
        size: Height and width of the images. If given, layers of a whole model that no image reaches stay FP, as in a
            run (:func:`keep_unreached`).

    Raises:
        UsageError: The recipe names no checkpoint.
        PSAQError: The checkpoint is missing or belongs to another model.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    described = without_downloads(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        described.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    quantization = dict(recipe_of(cfg).get("quantization", {}))
    artifact = artifact_model(ConfigDict(described), quantization)
    with buildable(cfg, "model"):
        teacher = HOST_MODELS.build(copy.deepcopy(described))
    set_text(teacher, cfg, {})
    if not random:
        if not cfg.get("load_from"):
            raise UsageError("the recipe names no checkpoint: give --checkpoint, or --random for random weights")
        load_teacher(teacher, cfg.load_from, cfg, ", or give --random")
    teacher.eval()
    if size is not None:
        check_image_size(backbone_of(teacher)[1], size)
        keep_unreached(artifact, teacher, size, policy_of(quantization)[0])
    student = build_student(artifact, teacher)
    for model in (teacher, student):
        model.eval()
        without_checkpointing(model)
        model.requires_grad_(False)
    return teacher, student
