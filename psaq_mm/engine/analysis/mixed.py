"""Recipes with mixed precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...utils.atomic_files import save_with
from ..recipe import recipe_of


def mixed_recipe(cfg: Config, overrides: list[dict[str, Any]]) -> Config:
    """A recipe in which some layers have bits of their own; all other settings stay the same.

    Args:
        cfg: The recipe.
        overrides: Overrides of its policy (:class:`psaq_mm.quantization.QuantPolicy`); they take precedence over the
            recipe's own.
    """
    cfg = copy.deepcopy(cfg)
    cfg.dfq = recipe_of(cfg)
    cfg.pop("work_dir", None)  # else its run would replace the files of the other recipe's
    quantization = cfg.dfq.quantization
    quantization.overrides = [*(quantization.get("overrides") or ()), *overrides]
    return cfg


def save_recipe(cfg: Config, path: Path) -> None:
    """Write a recipe as a config file that depends on no other file."""
    save_with(lambda scratch: scratch.write_text(cfg.pretty_text + "\n"), path)
