"""The arms of an ablation: the source of the images, and the stages that are run with them.

All arms with student steps take the same number of steps, with equal batch sizes and rates, from pools of equal final
size. Real images are training images, never those of the evaluation.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..distillation import CycleSettings
from ..errors import UsageError
from .recipe import recipe_of


@dataclass(frozen=True)
class Arm:
    """A variant of the quantization.

    Attributes:
        images: ``'psaq'`` (generated), ``'noise'`` (Gaussian noise), ``'fractal'`` (the noise that generation starts
            from) or ``'real'``.
        student: Whether the student is trained after calibration.
        generator: Whether the cycle takes generator steps.
        competes: Whether these steps maximise the discrepancy between teacher and student (b > 0).
    """

    images: str
    student: bool
    generator: bool = False
    competes: bool = False


ARMS = {
    "noise-calib": Arm("noise", student=False),
    "fractal-calib": Arm("fractal", student=False),
    "real-calib": Arm("real", student=False),
    "psaq-calib": Arm("psaq", student=False),
    "noise": Arm("noise", student=True),
    "fractal": Arm("fractal", student=True),
    "real": Arm("real", student=True),
    "psaq-b0": Arm("psaq", student=True, generator=True),
    "psaq": Arm("psaq", student=True, generator=True, competes=True),
}


NOISES = {"noise": "white", "fractal": "fractal"}


def configure(cfg: Config, arm: str, bits: tuple[int, int], seed: int, samples: Path) -> Config:
    """The recipe of one row.

    Args:
        cfg: The recipe that the rows share; ``real_images`` names the data set of the real arms (default: the training
            set).
        arm: A key of :data:`ARMS`.
        bits: Weight and activation bits.
        seed: The row's seed.
        samples: File through which the rows of a seed share their first generated images.

    Returns:
        A copy of the recipe for the row.

    Raises:
        UsageError: The arm is unknown, or needs real images and the recipe names no data set for them.
    """
    if arm not in ARMS:
        raise UsageError(f"arm {arm!r} is unknown: choose from fp32, {', '.join(ARMS)}")
    chosen, cfg = ARMS[arm], copy.deepcopy(cfg)
    cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}
    # Apply by_bits first, so that it cannot set student steps that the arm turns off.
    cfg.dfq = recipe_of(cfg, bits)
    options = cfg.dfq
    options.arm = arm
    first, distill = options.generate, options.distill
    # A recipe that stops after calibration does not say how long the arms with a student train.
    distill.cycles = (distill.get("cycles") or CycleSettings.cycles) if chosen.student else 0
    total = first["images"] + distill.cycles * distill.get("generator_images", CycleSettings.generator_images)
    size = first["image_size"]
    if chosen.images == "psaq":
        first.samples = str(samples)
    elif chosen.images in NOISES:
        start = NOISES[chosen.images]
        options.generate = {"type": "psaq_mm.NoiseLoop", "images": total, "image_size": size, "start": start}
    else:
        dataset = real_dataset(cfg)
        if dataset is None:
            raise UsageError(f"arm {arm} needs real images: set real_images in the config to a data set for training")
        options.generate = {"type": "psaq_mm.RealImagesLoop", "images": total, "image_size": size, "dataset": dataset}
    if not chosen.generator:
        distill.generator_steps = 0
    if not chosen.competes:
        distill.competition = 0.0
    return cfg


def arm_of(recipe: dict[str, Any]) -> str:
    """The arm that a recipe runs on generated images: its ``arm`` if an ablation set it, else by its cycles."""
    distill = recipe.get("distill") or {}
    trains = distill.get("cycles", CycleSettings.cycles) > 0
    competes = distill.get("competition", CycleSettings.competition) > 0
    return recipe.get("arm") or ("psaq" if trains and competes else "psaq-b0" if trains else "psaq-calib")


def real_dataset(cfg: Config) -> dict[str, Any] | None:
    """The data set of real images: ``real_images``, or else the config's training set with the test pipeline.

    Returns:
        The config of the data set; None if the config names neither.
    """
    if "real_images" in cfg:
        return None if cfg.real_images is None else cfg.real_images.to_dict()
    if cfg.get("train_dataloader") is None or cfg.get("test_dataloader") is None:
        return None
    dataset = cfg.train_dataloader.dataset.to_dict()
    while "dataset" in dataset:  # a wrapper that repeats or balances a data set
        dataset = dataset["dataset"]
    return {**dataset, "pipeline": copy.deepcopy(cfg.test_dataloader.dataset.pipeline)}
