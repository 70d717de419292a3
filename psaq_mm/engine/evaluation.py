"""The host's own evaluation of any of its configs: float, quantized or deployed."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import UsageError
from ..models.checkpoint import load_weights, read_checkpoint
from ..models.host_types import buildable
from .dataset_checks import needed, readable
from .results import Figure, as_figure

NUMBER = itertools.count()


def evaluate(cfg: Config, checkpoint: str | Path, folder: Path) -> dict[str, Figure]:
    """Run a config's test set through its model, by mmengine's runner.

    Args:
        cfg: Of a model that a host knows, with a test set.
        checkpoint: Its weights; all of them, no others.
        folder: Work dir of the runner.

    Returns:
        The evaluator's figures.

    Raises:
        UsageError: The config has no test set, or it cannot be read.
        PSAQError: The checkpoint cannot be read or is another model's, or the test set is not there.
    """
    if not cfg.get("test_dataloader") or not cfg.get("test_evaluator"):
        raise UsageError(f"{cfg.filename} names no test set: nothing can be evaluated")
    loaded = read_checkpoint(checkpoint, hint="give the checkpoint that lies beside the config")
    cfg = copy.deepcopy(cfg)
    # mmengine keeps loggers and visualisers by name for as long as a process lives: each evaluation has its own.
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
