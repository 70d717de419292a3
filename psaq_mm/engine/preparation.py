"""From a recipe to the config that mmengine's runner is built from."""

from __future__ import annotations

import copy

from mmengine.config import Config

from ..models import policy_of, without_downloads
from ..models.host_types import short_type
from .builder import usage_errors
from .recipe import recipe_of

HOOKS = ("ProgressHook", "StateHook", "SamplesHook", "CycleLogHook")
TRAINING = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr")


def runner_config(cfg: Config) -> Config:
    """A copy of a recipe without what belongs to the float model's training, and with our hooks.

    Raises:
        UsageError: The recipe is not valid.
    """
    cfg = copy.deepcopy(cfg)
    cfg.dfq = recipe_of(cfg)
    with usage_errors():
        policy_of(cfg.dfq.quantization)
    for key in TRAINING:
        cfg[key] = None
    # Without a seed of its own a run could not be resumed, nor its record be made again.
    randomness = dict(cfg.get("randomness") or {})
    cfg.randomness = {**randomness, "seed": randomness.get("seed") or 0}
    if cfg.get("data_preprocessor") is not None:
        # mmpretrain's stands beside the model, where mmengine would hand it to the float model alone.
        cfg.model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    # The zoo's configs would fetch ImageNet weights that the checkpoint replaces at once.
    cfg.model = without_downloads(cfg.model)
    # A checkpoint holds averaged weights already; the hook would put its own copy in their place.
    kept = [hook for hook in cfg.get("custom_hooks") or [] if not short_type(hook).endswith("EMAHook")]
    present = {short_type(hook) for hook in kept}
    cfg.custom_hooks = [*kept, *({"type": f"psaq_mm.{name}"} for name in HOOKS if name not in present)]
    # mmengine wants a test with all of its parts, or none; some of them are empty dictionaries.
    for stage in ("val", "test"):
        parts = [f"{stage}_{part}" for part in ("dataloader", "evaluator", "cfg")]
        if any(cfg.get(part) is None for part in parts):
            cfg.update(dict.fromkeys(parts))
    return cfg
