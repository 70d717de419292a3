"""A recipe's float and quantized model without a run: what benchmarks need."""

from __future__ import annotations

import copy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from ..errors import UsageError
from ..models import artifact_model, without_downloads
from .checkpoint import how_to_get, load_weights, read_checkpoint
from .recipe import recipe_of


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
    teacher = HOST_MODELS.build(copy.deepcopy(described))
    if not random:
        if not cfg.get("load_from"):
            raise UsageError("the recipe names no checkpoint: give --checkpoint, or --random for random weights")
        loaded = read_checkpoint(cfg.load_from, hint=how_to_get(Path(cfg.load_from), cfg) + ", or give --random")
        load_weights(teacher, loaded["state_dict"], str(cfg.load_from))
    student = HOST_MODELS.build(copy.deepcopy(artifact))
    student.load_state_dict(teacher.state_dict(), strict=False)
    for model in (teacher, student):
        model.eval()
        model.requires_grad_(False)
    return teacher, student
