"""Quantization of a model in memory by :mod:`psaq_mm.distillation`, without a config file and without a runner."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..distillation import CycleSettings, Events, ImageGenerator, ImageSource, TeacherStudentCycle, calibrate
from ..distillation import generate_images as generate
from ..engine.builder import teacher_of
from ..engine.loops.base import height_and_width
from ..engine.recipe import default_recipe, parse_bits, recipe_of
from ..errors import UsageError
from ..generation import Discrepancy, RandomCrops, SamplePool
from ..models import (
    backbone_of,
    backbone_outputs,
    check_image_size,
    output_function,
    policy_of,
    try_image_size,
)
from ..models.checkpoint import check_finite
from ..quantization import CoverageReport, check_calibrated, coverage, freeze, make_rounding, recording_sqnr
from .events import MemoryStore, ProgressEvents
from .models import as_teacher, quantize_body

LIBRARY = "mmpretrain"  # timm models get the recipe of this library
STAGE_KEYS = ("type", "images", "image_size", "samples")


@dataclass(frozen=True)
class Quantized:
    """The result of :func:`quantize_model`.

    Attributes:
        model: The quantized model, of the same class as the float model.
        teacher: The float model in the form of :func:`as_teacher`.
        coverage: Which tensors are quantized.
        images: The samples, as network inputs.
        quantization: The keys of the policy.
    """

    model: nn.Module
    teacher: nn.Module
    coverage: CoverageReport
    images: Tensor
    quantization: dict[str, Any]


def quantize_model(
    model: nn.Module,
    bits: str | None,
    image_size: int | tuple[int, int] | None,
    seed: int,
    options: dict[str, Any],
    progress: bool | Callable[[str, int, int], None],
) -> Quantized:
    """Quantize a copy of a model in memory.

    Args:
        model: The float model, which is not changed.
        bits: See :func:`psaq_mm.quantize`, as for all following arguments.
        image_size: Height and width of the generated images.
        seed: Seed of all random numbers.
        options: Further keys of the recipe.
        progress: How progress is shown.

    Returns:
        The quantized model, its coverage and its samples.

    Raises:
        UsageError: The model is not supported, or a setting is not valid.
    """
    teacher, recipe, size = prepared(model, bits, image_size, options)
    student = copy.deepcopy(teacher)
    quantization = dict(recipe.quantization)
    body = quantize_body(student, quantization)
    student.eval()
    events = ProgressEvents(progress)
    try:
        run = Run(teacher, recipe, size, seed, events)
        run.generate()
        run.calibrate(student)
        run.distill(student)
    finally:
        events.close()
    with recording_sqnr(student), torch.no_grad():
        for images in run.pool.first(32).split(8):
            backbone_outputs(student, images.to(run.teacher.device))
    freeze(student)
    check_calibrated(student)
    policy, _ = policy_of(quantization)
    name, part = backbone_of(student)
    report = coverage(part, policy, prefix=name)
    return Quantized(body, teacher, report, run.pool.images, quantization)


def prepared(
    model: nn.Module, bits: str | None, image_size: int | tuple[int, int] | None, options: dict[str, Any]
) -> tuple[nn.Module, Any, tuple[int, int]]:
    """A model as teacher, its recipe and the size of the generated images, all checked.

    Args:
        model: The float model, which is not changed.
        bits: See :func:`psaq_mm.quantize`.
        image_size: Height and width of the generated images; None for those that the model was trained with.
        options: Further keys of the recipe.

    Raises:
        UsageError: The model is not supported, or a setting is not valid.
    """
    teacher = as_teacher(copy.deepcopy(model))
    recipe = recipe_for(model, bits, options)
    # timm models know the size of their training images.
    described = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    own = getattr(getattr(model, "patch_embed", None), "img_size", None) or (described and described[1:])
    size = height_and_width(image_size or (tuple(own) if own else recipe.generate.image_size))
    check_finite(teacher.state_dict(), type(model).__name__)
    check_image_size(backbone_of(teacher)[1], size)
    try_image_size(teacher, size)
    return teacher, recipe, size


class Run:
    """The stages of a run.

    Args:
        teacher: The float model in the form of :func:`as_teacher`.
        recipe: The ``dfq`` section.
        size: Height and width of the images.
        seed: Seed of all random numbers.
        events: Receives the progress.

    Attributes:
        teacher: The float model with its outputs, taps and pixel units.
        pool: The images.
    """

    def __init__(self, teacher: nn.Module, recipe: Any, size: tuple[int, int], seed: int, events: Events) -> None:
        self.recipe, self.size, self.seed, self.events = recipe, size, seed, events
        self.first, self.calibration, distill = (
            {key: value for key, value in recipe[stage].items() if key not in STAGE_KEYS}
            for stage in ("generate", "calibrate", "distill")
        )
        self.teacher = teacher_of(teacher)
        self.source = ImageSource(self.teacher, torch.Generator().manual_seed(seed * 1000))
        self.generator = self.image_generator(self.first.get("generator"))
        self.pool = SamplePool(recipe.get("pool_capacity", 1024), seed)
        options = {key: distill.pop(key, None) for key in ("generator", "discrepancy", "distill_on")}
        self.settings = CycleSettings(**distill)
        self.outputs = output_function(options["distill_on"] or "backbone", teacher)
        self.discrepancy = Discrepancy(**(options["discrepancy"] or {}))
        self.crops = RandomCrops(self.calibration.get("crops", 0))
        self.rounding = make_rounding(self.calibration.get("rounding", "nearest"))
        self.improver = self.image_generator(options["generator"])

    def image_generator(self, options: dict[str, Any] | None) -> ImageGenerator:
        """An image generator with options of the recipe; all share the run's random number generator."""
        return ImageGenerator(self.teacher, self.source.generator, self.seed, self.events.warn, **(options or {}))

    def generate(self) -> None:
        """Generate the first images of the pool."""
        first = self.first
        images = generate(
            self.source,
            self.generator,
            MemoryStore(),
            self.recipe.generate.images,
            self.size,
            first.get("start", "fractal"),
            first.get("batch_size", 16),
            first.get("steps", 100),
            events=self.events,
        )
        self.pool.add(images, tag="first")

    def calibrate(self, student: nn.Module) -> None:
        """Calibrate a quantized copy of the teacher."""
        images = self.crops(
            self.pool.first(self.recipe.calibrate.get("images", 32)), torch.Generator().manual_seed(self.seed)
        )
        batch = self.calibration.get("batch_size", 8)
        calibrate(student, images, backbone_outputs, batch, self.rounding, events=self.events)

    def distill(self, student: nn.Module) -> None:
        """Train a calibrated student against the teacher."""
        TeacherStudentCycle(
            self.source,
            student,
            self.pool,
            self.outputs,
            self.discrepancy,
            self.settings,
            self.improver,
            events=self.events,
        ).run()


def recipe_for(model: nn.Module, bits: str | None, options: dict[str, Any]) -> Any:
    """The default recipe of the model's library, with the options merged in, at the given bit width."""
    library = type(model).__module__.partition(".")[0]
    cfg = Config({"dfq": default_recipe(LIBRARY if library == "timm" else library)})
    cfg.merge_from_dict(options)
    recipe = recipe_of(cfg, parse_bits(bits) if bits else None)
    if recipe.quantization.pop("scope", "backbone") != "backbone":
        raise UsageError("a model in memory is quantized in scope 'backbone': give a config for scope 'model'")
    return recipe
