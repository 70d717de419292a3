"""Evaluation of a config of a host library by mmengine's runner: float, quantized or deployed."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from ..errors import UsageError
from ..models.checkpoint import load_weights, read_checkpoint
from ..models.hosts import named
from ..models.hosts.types import buildable
from .dataset_checks import needed, readable
from .results import Figure, as_figure

NUMBER = itertools.count()
# How the results of augmented images are merged, by library, where a config does not say it; those of their test tools.
MERGING = {
    "mmdet": {"type": "DetTTAModel", "tta_cfg": {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}},
    "mmpretrain": {"type": "mmpretrain.AverageClsScoreTTA"},
}


def with_augmentation(cfg: Config) -> Config:
    """A copy of a config whose test set and model are those of test-time augmentation, as the hosts' test tools do it.

    Args:
        cfg: A config. Without ``tta_model`` or ``tta_pipeline``, detectors and classifiers are tested on each image and
            its mirror image.

    Raises:
        UsageError: It lacks one of these, and its library has no default.
    """
    cfg = copy.deepcopy(cfg)
    if cfg.get("data_preprocessor") is not None:  # mmpretrain's configs have it outside the model
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    described = cfg.test_dataloader["dataset"]
    while "dataset" in described:  # a wrapper that repeats or balances a data set
        described = described["dataset"]
    if cfg.get("default_scope") in MERGING:
        cfg.setdefault("tta_model", MERGING[cfg.default_scope])
        cfg.setdefault("tta_pipeline", mirrored(described["pipeline"]))
    lacking = [key for key in ("tta_model", "tta_pipeline") if not cfg.get(key)]
    if lacking:
        raise UsageError(
            f"{cfg.filename} has no {' and no '.join(lacking)}: add them as the configs of its library have them, or "
            "leave out --tta"
        )
    described["pipeline"] = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    return cfg


def mirrored(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A test pipeline that yields each image and its mirror image."""
    *before, last = copy.deepcopy(pipeline)
    if "meta_keys" in last:
        last["meta_keys"] = tuple(dict.fromkeys([*last["meta_keys"], "flip", "flip_direction"]))
    flips = [{"type": "RandomFlip", "prob": probability} for probability in (1.0, 0.0)]
    return [*before, {"type": "TestTimeAug", "transforms": [flips, [last]]}]


def evaluate(cfg: Config, checkpoint: str | Path, folder: Path, tta: bool = False) -> dict[str, Figure]:
    """Evaluate a config's model on its test set.

    Args:
        cfg: The config of a model, with a test set.
        checkpoint: The weights; their keys must match the model exactly.
        folder: Work dir of the runner.
        tta: Test on several augmented copies of each image, whose results are merged (:func:`with_augmentation`).

    Returns:
        The evaluator's metrics.

    Raises:
        UsageError: The config has no test set or no augmentation, or the test set cannot be read.
        PSAQError: The checkpoint cannot be read or belongs to another model, or the test set does not exist.
    """
    if not cfg.get("test_dataloader") or not cfg.get("test_evaluator"):
        raise UsageError(f"{cfg.filename} names no test set: nothing can be evaluated")
    cfg = with_augmentation(cfg) if tta else cfg
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
    load_weights(runner.model.module if tta else runner.model, loaded["state_dict"], str(checkpoint))
    described = cfg.test_dataloader["dataset"]
    with needed(described):
        with readable(described):
            runner._test_dataloader = runner.build_dataloader(runner._test_dataloader, seed=runner.seed)
        try:
            return {key: as_figure(value) for key, value in runner.test().items()}
        except (KeyError, AttributeError, NotImplementedError, AssertionError) as error:
            if not tta:
                raise
            kind = named(cfg.model["type"])
            raise UsageError(
                f"{kind} cannot evaluate with test-time augmentation ({type(error).__name__}: {error}): leave out "
                "--tta, or correct tta_model and tta_pipeline; mmdet's merges boxes, not masks"
            ) from error
