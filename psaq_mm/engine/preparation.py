"""Configs: reading a recipe, and preparing it for mmengine's runner."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..compat import DISTRIBUTIONS, import_quietly
from ..errors import PSAQError, UsageError
from ..models import HOSTS, named, policy_of, without_downloads
from ..models.hosts.types import short_type
from ..utils.config_lookup import find_config, find_file
from .builder import usage_errors
from .recipe import recipe_of

HOOKS = ("ProgressHook", "StateHook", "SamplesHook", "CycleLogHook")
TRAINING = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr")


def runner_config(cfg: Config) -> Config:
    """A copy of a recipe without the settings of the float model's training, and with our hooks.

    Raises:
        UsageError: The recipe is not valid.
    """
    cfg = copy.deepcopy(cfg)
    cfg.dfq = recipe_of(cfg)
    with usage_errors():
        policy_of(cfg.dfq.quantization)
    for key in TRAINING:
        cfg[key] = None
    # mmengine would draw a random seed, and the run could be neither resumed nor reproduced.
    randomness = dict(cfg.get("randomness") or {})
    cfg.randomness = {**randomness, "seed": randomness.get("seed") or 0}
    if cfg.get("data_preprocessor") is not None:
        # mmpretrain's configs have it outside the model, where mmengine would give it to the float model only.
        cfg.model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    # Configs of model zoos download ImageNet weights, which the checkpoint would replace.
    cfg.model = without_downloads(cfg.model)
    # The checkpoint holds the averaged weights already; the hook would replace them by its own copy.
    kept = [hook for hook in cfg.get("custom_hooks") or [] if not short_type(hook).endswith("EMAHook")]
    present = {short_type(hook) for hook in kept}
    cfg.custom_hooks = [*kept, *({"type": f"psaq_mm.{name}"} for name in HOOKS if name not in present)]
    # mmengine accepts a stage only with all of its parts or none; empty dictionaries count as parts.
    for stage in ("val", "test"):
        parts = [f"{stage}_{part}" for part in ("dataloader", "evaluator", "cfg")]
        if any(cfg.get(part) is None for part in parts):
            cfg.update(dict.fromkeys(parts))
    return cfg


def open_config(
    name: str | Path | Config,
    options: dict[str, Any] | None = None,
    work_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> Config:
    """Read a config and import the libraries that it needs.

    Args:
        name: A path, the name of one of the package's recipes, or a config, which is not changed.
        options: Keys such as ``'dfq.generate.images'`` and their values.
        work_dir: Folder for the results; default: the config's, or ``work_dirs/NAME``.
        checkpoint: Path of the float checkpoint; default: the config's ``load_from``.

    Returns:
        The config with the options merged in.

    Raises:
        UsageError: No config has this path or name, or the config cannot be read.
        PSAQError: A library that the config needs is missing.
    """
    path = Path(name.filename or "config.py") if isinstance(name, Config) else find_config(name)
    try:
        cfg = copy.deepcopy(name) if isinstance(name, Config) else Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except Exception as error:  # a config is a program, which can raise any exception
        raise UsageError(f"the config {path} cannot be read ({error}): correct it") from None
    import_host(cfg)
    cfg.work_dir = str(work_dir or cfg.get("work_dir") or Path("work_dirs") / path.stem)
    if checkpoint:
        cfg.load_from = str(checkpoint)
    if cfg.get("load_from") and "://" not in str(cfg.load_from):
        cfg.load_from = str(find_file(cfg.load_from))
    return cfg


def import_host(cfg: Config) -> None:
    """Import only the host libraries that a config uses, because each import takes seconds.

    Raises:
        PSAQError: One of them is not installed or cannot be imported.
    """
    scope, parts = cfg.get("default_scope"), foreign_parts(cfg.get("model"))
    if scope in HOSTS:
        parts = {scope: "its default_scope", **parts}
    for library, part in parts.items():
        if find_spec(library) is None:
            names = " or ".join(DISTRIBUTIONS[library])
            raise PSAQError(f"the config needs {library} ({part}), which is not installed: pip install {names}")
        # Models too, which registries would import with all output: mmdet's import mmpretrain, which prints a line.
        wanted = ("datasets", "evaluation", "visualization", "models") if library == scope else ("models",)
        try:
            import_quietly(*(f"{library}.{one}" for one in wanted))
        except Exception as error:  # version conflicts raise any exception, such as TypeError or AssertionError
            raise PSAQError(
                f"the config needs {library} ({part}), which cannot be imported ({error}): reinstall it"
            ) from None


def foreign_parts(model: Any) -> dict[str, str]:
    """The host libraries that a model's types name (``type='mmseg.Feature2Pyramid'``), each with its first type."""
    found: dict[str, str] = {}
    if isinstance(model, dict):
        kind = named(model.get("type") or "")
        if (library := kind.partition(".")[0]) in HOSTS:
            found[library] = kind
        model = list(model.values())
    for part in model if isinstance(model, (list, tuple)) else ():
        found = {**foreign_parts(part), **found}
    return found
