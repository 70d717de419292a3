"""Evaluation of a config of a host library by mmengine's runner: float, quantized or deployed."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import UsageError
from ..models.checkpoint import load_weights, read_checkpoint
from ..models.hosts.types import buildable
from .dataset_checks import needed, readable
from .results import Figure, as_figure

NUMBER = itertools.count()


def evaluate(cfg: Config, checkpoint: str | Path, folder: Path) -> dict[str, Figure]:
    """Evaluate a config's model on its test set.

    Args:
        cfg: The config of a model, with a test set.
        checkpoint: The weights; their keys must match the model exactly.
        folder: Work dir of the runner.

    Returns:
        The evaluator's metrics.

    Raises:
        UsageError: The config has no test set, or the test set cannot be read.
        PSAQError: The checkpoint cannot be read or belongs to another model, or the test set does not exist.
    """
    if not cfg.get("test_dataloader") or not cfg.get("test_evaluator"):
        raise UsageError(f"{cfg.filename} names no test set: nothing can be evaluated")
    loaded = read_checkpoint(checkpoint, hint="give the checkpoint beside the config")
    cfg = copy.deepcopy(cfg)
    # mmengine keeps loggers and visualizers by name until the process ends, so each evaluation has its own name.
    name = f"test_{next(NUMBER)}"
    cfg.work_dir, cfg.experiment_name, cfg.load_from = str(folder), name, None
    cfg.resume = False
    if cfg.get("visualizer"):
        cfg.visualizer.name = name
    with buildable(cfg, "model"):
        runner = Runner.from_cfg(cfg)
    load_weights(runner.model, loaded["state_dict"], str(checkpoint))
    described = cfg.test_dataloader["dataset"]
    with needed(described):
        with readable(described):
            runner._test_dataloader = runner.build_dataloader(runner._test_dataloader, seed=runner.seed)
        return {key: as_figure(value) for key, value in runner.test().items()}
