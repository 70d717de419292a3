"""Arguments of the API: checks, and configs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from ..engine.preparation import open_config
from ..engine.recipe import KEYS, default_recipe, parse_bits, recipe_of
from ..errors import UsageError

Progress = bool | Callable[[str, int, int], None]
NUMBER = itertools.count()


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


def only_for_configs(**given: Any) -> None:
    """Check that arguments which a model in memory cannot have are None.

    Raises:
        UsageError: One is not.
    """
    if wrong := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"{wrong[0]} is for configs: a model in memory has its weights and writes no files")


def recipe_config(
    model: str | Path | Config,
    options: dict[str, Any],
    work_dir: str | Path,
    checkpoint: str | Path | None,
    bits: str | None,
    image_size: int | tuple[int, int] | None,
) -> Config:
    """A config with a ``dfq`` section for a run of its own.

    Args:
        model: A name, a path or a config, which is not changed.
        options: Further keys of the config by dotted name.
        work_dir: The folder of the run.
        checkpoint: Path of the float checkpoint; None for the config's ``load_from``.
        bits: Bits such as ``'w4a8'``; None for the recipe's.
        image_size: Height and width of the generated images; None for the recipe's.

    Raises:
        UsageError: The config cannot be read, or its library has no default recipe.
    """
    cfg = open_config(model, {}, work_dir, checkpoint)
    if cfg.get("dfq") is None:
        cfg.dfq = default_recipe(cfg.get("default_scope"))
        cfg.runner_type = "psaq_mm.DFQRunner"
    cfg.merge_from_dict(options)
    cfg.dfq = recipe_of(cfg, parse_bits(bits) if bits else None)
    cfg.dfq.progress = True  # the log goes to its file only
    if image_size is not None:
        cfg.dfq.generate.image_size = image_size
    # mmengine keeps loggers and visualizers by name until the process ends.
    cfg.experiment_name = f"psaq_mm_{os.getpid()}_{next(NUMBER)}"
    if cfg.get("visualizer"):
        cfg.visualizer.name = cfg.experiment_name
    return cfg
