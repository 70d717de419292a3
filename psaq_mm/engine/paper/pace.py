"""An estimate of the time that the paper's table takes, from a few images and steps of each model.

The pilot of a model is its recipe with a few images and steps, run on the device of the real runs. It gives the
seconds of an image in each part. A stage's time is taken to be proportional to its images times its steps, and an
evaluation's to its images. On a GPU the batches are those of the recipe, and a pilot before the measured one warms up;
a CPU is about as fast with small batches, so there are two images in each.

The pilot runs all stages and evaluates with the real data, so that it also finds what only shows then: weights of
another model, or classes that differ.
"""

from __future__ import annotations

import copy
import gc
import itertools
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch.utils.data import DataLoader

from ...distillation import CycleSettings
from ...utils.atomic_files import save_json
from ..arms import configure
from ..dataset_checks import build_test_loop, needed
from ..recipe import parse_bits, recipe_of
from ..runner import DFQRunner

NUMBER = itertools.count()
PACE_FILE = "pace.json"
GENERATE_STEPS = 2
TIMED_BATCHES = 4
# Enough batches have been timed after so many seconds.
ENOUGH_SECONDS = 20.0


@dataclass(frozen=True)
class Pace:
    """The speed of a model's parts on one device.

    Attributes:
        device: Name of the device.
        generate: Seconds of an image and step of the first images.
        calibrate: Seconds of an image of the calibration.
        distill: Seconds of an image and step of the cycle, of generator and student steps in the recipe's proportion.
        evaluate_fp: Seconds of a test image of the float model, with loading and post-processing.
        evaluate: The same of the quantized model.
    """

    device: str
    generate: float
    calibrate: float
    distill: float
    evaluate_fp: float
    evaluate: float

    def seconds(self, cfg: Config, images: int, rows: int, seeds: int, evaluates_fp: bool) -> float:
        """The estimated time of a model's rows on one device.

        Args:
            cfg: The recipe.
            images: Number of test images.
            rows: Number of rows: bit widths times seeds.
            seeds: Number of seeds whose first images are not there yet; the rows of a seed share them.
            evaluates_fp: Whether the float model must be evaluated.
        """
        recipe = recipe_of(cfg)
        first = recipe.generate["images"] * recipe.generate["steps"] * self.generate
        row = recipe.calibrate["images"] * self.calibrate + image_steps(recipe.distill) * self.distill
        return seeds * first + rows * (row + images * self.evaluate) + evaluates_fp * images * self.evaluate_fp


def image_steps(distill: dict[str, int]) -> int:
    """Images times steps of a cycle stage: those of the generator and those of the student."""
    generator = distill["generator_steps"] * distill["generator_images"]
    # The arm trains, also where the recipe does not.
    return (distill["cycles"] or CycleSettings.cycles) * (generator + distill["student_steps"] * distill["batch_size"])


def device_name() -> str:
    """The name of the device that runs use."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def known_pace(folder: Path) -> Pace | None:
    """The pace of an earlier pilot, if it ran on this device.

    Args:
        folder: The folder of the model's runs.
    """
    path = folder / PACE_FILE
    pace = Pace(**json.loads(path.read_text())) if path.is_file() else None
    return pace if pace is not None and pace.device == device_name() else None


def measured_pace(cfg: Config, bits: str, folder: Path) -> Pace:
    """Measure the pace of a model by a pilot, and keep it for later calls.

    Args:
        cfg: The recipe, with its data and checkpoint.
        bits: The bit width of the pilot.
        folder: The folder of the model's runs.

    Raises:
        PSAQError: The checkpoint or the data do not fit the model, or another error that the runs would meet too.
    """
    if torch.cuda.is_available():
        pilot(cfg, bits, folder / "pilot")
    pace = pilot(cfg, bits, folder / "pilot")
    save_json(asdict(pace), folder / PACE_FILE)
    return pace


def pilot(cfg: Config, bits: str, folder: Path) -> Pace:
    """Run a recipe with a few images and steps, and time it.

    Args:
        cfg: The recipe.
        bits: The bit width.
        folder: Work dir of the pilot, which is deleted.
    """
    short = pilot_config(cfg, bits, folder)
    recipe = short.dfq
    runner = DFQRunner.from_cfg(short)
    try:
        runner.prepare()
        described = runner.cfg.test_dataloader["dataset"]
        with needed(described):
            loader = build_test_loop(runner, runner.teacher).dataloader
        evaluate_fp = seconds_an_image(loader, runner.teacher)
        runner.train()
        evaluate = seconds_an_image(loader, runner.student)
        return Pace(
            device_name(),
            runner.seconds["generate"] / (recipe.generate["images"] * recipe.generate["steps"]),
            runner.seconds["calibrate"] / recipe.calibrate["images"],
            runner.seconds["distill"] / max(1, image_steps(recipe.distill)),
            evaluate_fp,
            evaluate,
        )
    finally:
        del runner
        gc.collect()
        torch.cuda.empty_cache()  # for the runs, which are other processes
        shutil.rmtree(folder, ignore_errors=True)


def pilot_config(cfg: Config, bits: str, folder: Path) -> Config:
    """The recipe of a pilot: two steps for one batch of first images, and one cycle in the recipe's proportion."""
    few = None if torch.cuda.is_available() else 2
    cfg = configure(cfg, "psaq", parse_bits(bits), 0, folder / "samples.pth")
    name = f"pilot_{next(NUMBER)}"
    cfg.work_dir, cfg.experiment_name, cfg.resume = str(folder), name, False
    if "visualizer" in cfg:
        cfg.visualizer = {**cfg.visualizer, "name": name}
    recipe, distill = cfg.dfq, cfg.dfq.distill
    recipe.progress = True  # which keeps mmengine's log off the terminal
    first = few or min(recipe.generate["batch_size"], recipe.generate["images"])
    recipe.generate.update(images=first, batch_size=first, steps=GENERATE_STEPS)
    recipe.calibrate.update(images=few or min(first, recipe.calibrate["images"]))
    made = distill["generator_steps"] * distill["generator_images"]
    trained = distill["student_steps"] * distill["batch_size"]
    images, batch = few or distill["generator_images"], few or distill["batch_size"]
    distill.update(cycles=min(1, distill["cycles"]), generator_images=images, batch_size=batch)
    if made:
        distill.update(generator_steps=1, student_steps=max(1, round(trained / made * images / batch)))
    else:
        distill.update(student_steps=min(2, distill["student_steps"]))
    for part in (recipe.generate, distill):
        if "generator" in part:
            part.generator.update(warmup=0)
    return cfg


@torch.no_grad()
def seconds_an_image(loader: DataLoader, model: Any) -> float:
    """The seconds that a test image takes, from a few batches; the first warms up, unless it is the only one.

    Args:
        loader: The test set's loader.
        model: The model, in eval mode.
    """
    timed: list[tuple[float, int]] = []
    start = begin = time.monotonic()
    for data in itertools.islice(loader, TIMED_BATCHES + 1):
        model.test_step(copy.copy(data))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        timed.append((now - start, len(data["inputs"])))
        start = now
        if len(timed) > 1 and now - begin > ENOUGH_SECONDS:
            break
    kept = timed[1:] or timed
    return sum(seconds for seconds, _ in kept) / sum(images for _, images in kept)
