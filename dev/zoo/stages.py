"""What a config goes through: its float model, then the package's whole run on random weights, then inference."""

from __future__ import annotations

import math
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

import psaq_mm
from psaq_mm.models import backbone_outputs

from .configs import one_line, read
from .models import (
    build_float,
    fitting_size,
    float_config,
    infer,
    relative_error,
    with_few_boxes,
    with_language_model,
    without_addresses,
)
from .samples import NAMES, channels_of, sizes_of

# In order; the stages from 'generate' to 'calibrate' are those of the run.
STAGES = ("build", "infer_float", "quantize", "generate", "calibrate", "distill", "infer")
IMAGES = 2
Tell = Callable[[dict[str, Any]], None]


class Stages:
    """Runs the stages of one config, and tells what each found as soon as it is known.

    Args:
        library: The library that ships the config.
        config: Its name.
        tell: Receives parts of the row; a later part replaces keys of an earlier one. ``stage`` is the stage that is
            going on, ``passed`` the last that was passed.
        bert: The folder that stands for the language model that configs name.
    """

    def __init__(self, library: str, config: str, tell: Tell, bert: Path | None = None) -> None:
        self.library, self.config, self.tell, self.bert = library, config, tell, bert
        self.stage, self.began = "", time.perf_counter()

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        self.stage = stage
        self.tell({"stage": stage})

    def run(self, quantized: bool = True, cycles: int = 0) -> None:
        """Run all stages; an error ends them, and is told.

        Args:
            quantized: Whether to go on after the float model.
            cycles: Number of teacher-student cycles, of one step each.
        """
        try:
            self.float_stages()
            if quantized:
                self.quantized_stages(cycles)
        except Exception as error:  # libraries raise errors of any kind
            self.tell({"stage": self.stage, "error": one_line(error), "where": where(error)})
        except SystemExit as error:
            self.tell({"stage": self.stage, "error": f"SystemExit: {error}"})

    def float_stages(self) -> None:
        """Build the float model and infer one image."""
        self.enter("build")
        cfg = read(self.library, self.config)
        if cfg.get("default_scope") is None:  # as mmpretrain's get_model does for its own configs
            cfg.default_scope = self.library
        without_addresses(cfg.model)
        with_few_boxes(cfg.model)
        if self.bert:
            with_language_model(cfg.model, self.bert)
        self.cfg, described = cfg, float_config(cfg)
        self.channels = channels_of(described)
        self.model = build_float(cfg)
        parameters = sum(one.numel() for one in self.model.parameters())
        self.tell({"passed": "build", "parameters": parameters})
        self.enter("infer_float")
        # Of the model's class, which may be another than that of the config.
        self.host = library_of(self.model, self.library)
        sizes = sizes_of(described, pipeline_of(cfg))
        self.size, how = fitting_size(self.model, sizes, self.host, self.channels)
        self.tell({"passed": "infer_float", "size": list(self.size), "infers": how, "seconds_float": self.seconds()})

    def quantized_stages(self, cycles: int) -> None:
        """Quantize the model through the package's API, compare it with the float model, and infer one image."""
        self.enter("quantize")
        with tempfile.TemporaryDirectory(prefix="zoo_") as folder:
            checkpoint = Path(folder) / "random.pth"
            torch.save({"state_dict": self.model.state_dict()}, checkpoint)
            del self.model  # the run builds its own
            try:
                result = psaq_mm.quantize(
                    self.cfg,
                    checkpoint,
                    image_size=self.size,
                    work_dir=Path(folder) / "run",
                    options={**short_run(cycles), **({"dfq.text": list(NAMES)} if self.bert else {})},
                    evaluate=False,
                    progress=self.progress,
                )
            except Exception as error:
                self.stage = stage_of(error) or self.stage
                raise
        self.tell({"passed": "distill" if cycles else "calibrate", **described_result(result)})
        self.enter("infer")
        infer(result.model, self.host, self.size, self.channels)
        self.tell({"passed": "infer", "stage": "infer", "seconds_quantized": self.seconds()})

    def progress(self, stage: str, step: int, total: int) -> None:
        """Tell which stage of the run is going on."""
        if stage in STAGES and stage != self.stage:
            self.tell({"passed": STAGES[STAGES.index(stage) - 1]})
            self.enter(stage)

    def seconds(self) -> float:
        """Seconds since the last call."""
        now, began = time.perf_counter(), self.began
        self.began = now
        return round(now - began, 1)


def short_run(cycles: int) -> dict[str, Any]:
    """The options of a run of two images; all else is the default recipe of the library.

    Weights have the range of their extremes: the default's search is half of a run's time, and changes no stage.
    """
    return {
        "dfq.generate.images": IMAGES,
        "dfq.generate.batch_size": IMAGES,
        "dfq.generate.steps": 1,
        "dfq.generate.generator.warmup": 0,
        "dfq.quantization.weight_observer": "minmax",
        "dfq.calibrate.images": IMAGES,
        "dfq.calibrate.batch_size": IMAGES,
        "dfq.distill.cycles": cycles,
        "dfq.distill.generator_steps": 1,
        "dfq.distill.generator_images": IMAGES,
        "dfq.distill.generator.warmup": 0,
        "dfq.distill.student_steps": 1,
        "dfq.distill.batch_size": IMAGES,
    }


def described_result(result: psaq_mm.Result) -> dict[str, Any]:
    """What a row says of a quantized model: its quantized tensors and products, and its distance from the float one."""
    products = [row for row in result.coverage.rows if row.kind == "product"]
    images = result.samples.images
    with torch.no_grad():
        outputs = [backbone_outputs(model, images) for model in (result.model, result.samples.model)]
    found = {
        "tensors": [result.coverage.quantized, result.coverage.quantized + result.coverage.fp],
        "products": [sum(row.bits is not None for row in products), len(products)],
    }
    error = relative_error(outputs[0], outputs[1])
    # JSON has no NaN.
    return {**found, "difference": float(f"{error:.3g}") if math.isfinite(error) else None}


def pipeline_of(cfg: Config) -> list[Any]:
    """The transforms of a config's test set; empty without one."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    return list(dataset.get("pipeline") or ())


def library_of(model: nn.Module, library: str) -> str:
    """The library of a model's class: that of a reader may be another, as of mmdet's classifiers."""
    own = type(model).__module__.partition(".")[0]
    return own if own in ("mmdet", "mmseg", "mmpretrain") else library


def stage_of(error: BaseException) -> str | None:
    """The stage of the runner in which an error was raised; None if it was before the first."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "run_stage" and "stage" in frame.f_locals:
            return str(frame.f_locals["stage"])
    return None


def where(error: BaseException) -> str:
    """File and function in which an error was raised: ``'swin.py: forward'``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}: {frames[-1].name}" if frames else ""
