"""Quantization of a model in memory by :mod:`psaq_mm.distillation`, without a config file and without a runner."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from .distillation import CycleSettings, Events, ImageGenerator, ImageSource, TeacherStudentCycle, calibrate
from .distillation import generate_images as generate
from .engine.builder import teacher_of
from .engine.hooks import ProgressHook
from .engine.loops.base import height_and_width
from .engine.recipe import default_recipe, parse_bits, recipe_of
from .errors import PSAQError, UsageError
from .generation import Discrepancy, RandomCrops, SamplePool
from .models import (
    backbone_of,
    backbone_outputs,
    check_image_size,
    classifier_overrides,
    output_function,
    policy_of,
    quantize_in_place,
    try_image_size,
    without_checkpointing,
)
from .models.checkpoint import check_finite
from .models.former import forms_of
from .quantization import CoverageReport, check_calibrated, coverage, freeze, make_rounding, recording_sqnr
from .utils.atomic_files import save_tensors

LIBRARY = "mmpretrain"  # timm models get the recipe of this library
STAGE_KEYS = ("type", "images", "image_size", "samples")


class Normalization(nn.Module):
    """Mean and standard deviation of RGB pixels in [0, 1], in the form of OpenMMLab's data preprocessors.

    Args:
        mean: One value a channel.
        std: One value a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.to_rgb = True
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)


class TimmModel(nn.Module):
    """Wraps a timm model as the adapters expect a classifier, with its body in ``model`` and a ``data_preprocessor``.

    Args:
        model: A timm model; its ``pretrained_cfg`` gives mean and standard deviation of pixels in [0, 1]. ImageNet's
            are used if it gives none.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        described = getattr(model, "pretrained_cfg", None) or {}
        mean = described.get("mean") or (0.485, 0.456, 0.406)
        self.data_preprocessor = Normalization(mean, described.get("std") or (0.229, 0.224, 0.225))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(images, classes)``."""
        return self.model(images)


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


class ProgressEvents(Events):
    """Shows progress bars, or calls a function.

    Args:
        progress: True for bars, False for no output, or a function of the stage, the steps done and the total steps.
    """

    def __init__(self, progress: bool | Callable[[str, int, int], None]) -> None:
        self.report = progress if callable(progress) else None
        self.bars = ProgressHook() if progress is True else None
        self.run = SimpleNamespace(shows_progress=True)
        self.total = 0

    def begin(self, stage: str, total: int) -> None:
        """Open the progress bar of a stage of ``total`` steps."""
        self.total = total
        if self.bars:
            self.bars.before_stage(self.run, stage, total)

    def step(self, stage: str, step: int, save: Callable[[], None] | None = None, due: bool = False) -> None:
        """Advance the bar or call the function."""
        if self.report:
            self.report(stage, step, self.total)
        if self.bars:
            self.bars.after_stage_step(self.run, stage, step)
            if step == self.total:
                self.bars.after_stage(self.run, stage)

    def close(self) -> None:
        """Close a bar that is still open."""
        if self.bars:
            self.bars.after_run(self.run)


class MemoryStore:
    """Keeps images in memory (:class:`psaq_mm.generation.ImageStore`)."""

    def __init__(self) -> None:
        self.images: dict[str, Tensor] = {}

    def keep(self, image: Tensor) -> str:
        """Store an image and return its name."""
        name = str(len(self.images))
        self.images[name] = image
        return name

    def open(self, name: str) -> Tensor:
        """The image stored under a name."""
        return self.images[name]


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
    teacher = as_teacher(copy.deepcopy(model))
    recipe = recipe_for(model, bits, options)
    # timm models know the size of their training images.
    described = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    own = getattr(getattr(model, "patch_embed", None), "img_size", None) or (described and described[1:])
    size = height_and_width(image_size or (tuple(own) if own else recipe.generate.image_size))
    check_finite(teacher.state_dict(), type(model).__name__)
    check_image_size(backbone_of(teacher)[1], size)
    try_image_size(teacher, size)
    student = copy.deepcopy(teacher)
    quantization = dict(recipe.quantization)
    body = quantize_body(student, quantization)
    student.eval()
    events = ProgressEvents(progress)
    try:
        images = run(teacher, student, recipe, size, seed, events)
    finally:
        events.close()
    check_calibrated(student)
    policy, _ = policy_of(quantization)
    name, part = backbone_of(student)
    report = coverage(part, policy, prefix=name)
    return Quantized(body, teacher, report, images, quantization)


def run(
    teacher: nn.Module, student: nn.Module, recipe: Any, size: tuple[int, int], seed: int, events: Events
) -> Tensor:
    """Generate images, calibrate the student and distill; the student is changed in place.

    Args:
        teacher: The float model in the form of :func:`as_teacher`.
        student: A quantized copy, not calibrated.
        recipe: The ``dfq`` section.
        size: Height and width of the images.
        seed: Seed of all random numbers.
        events: Receives the progress.

    Returns:
        The samples, ``(count, channels, H, W)``.
    """
    first, calibration, distill = (
        {key: value for key, value in recipe[stage].items() if key not in STAGE_KEYS}
        for stage in ("generate", "calibrate", "distill")
    )
    frozen = teacher_of(teacher)
    source = ImageSource(frozen, torch.Generator().manual_seed(seed * 1000))
    generator = ImageGenerator(frozen, source.generator, seed, events.warn, **(first.get("generator") or {}))
    pool = SamplePool(recipe.get("pool_capacity", 1024), seed)
    options = {key: distill.pop(key, None) for key in ("generator", "discrepancy", "distill_on")}
    settings = CycleSettings(**distill)
    outputs = output_function(options["distill_on"] or "backbone", teacher)
    discrepancy, crops = Discrepancy(**(options["discrepancy"] or {})), RandomCrops(calibration.get("crops", 0))
    rounding = make_rounding(calibration.get("rounding", "nearest"))
    improver = ImageGenerator(frozen, source.generator, seed, events.warn, **(options["generator"] or {}))
    count, start = recipe.generate.images, first.get("start", "fractal")
    batch, steps = first.get("batch_size", 16), first.get("steps", 100)
    pool.add(generate(source, generator, MemoryStore(), count, size, start, batch, steps, events=events), tag="first")
    images = crops(pool.first(recipe.calibrate.get("images", 32)), torch.Generator().manual_seed(seed))
    calibrate(student, images, backbone_outputs, calibration.get("batch_size", 8), rounding, events=events)
    TeacherStudentCycle(source, student, pool, outputs, discrepancy, settings, improver, events=events).run()
    with recording_sqnr(student), torch.no_grad():
        for part in pool.first(32).split(8):
            backbone_outputs(student, part.to(frozen.device))
    freeze(student)
    return pool.images


def as_teacher(model: nn.Module) -> nn.Module:
    """A model in the form that the adapters expect, frozen, in eval mode.

    Raises:
        UsageError: The model is not a timm model and has no ``backbone``.
    """
    if type(model).__module__.startswith("timm."):
        model = TimmModel(model)
    elif not isinstance(getattr(model, "backbone", None), nn.Module):
        raise UsageError(
            f"{type(model).__name__} has no backbone and is not a timm model: give a detector, a segmentor or a "
            "classifier of OpenMMLab, or a timm model"
        )
    model.eval()
    model.requires_grad_(False)
    without_checkpointing(model)
    return model


def recipe_for(model: nn.Module, bits: str | None, options: dict[str, Any]) -> Any:
    """The default recipe of the model's library, with the options merged in, at the given bit width."""
    library = type(model).__module__.partition(".")[0]
    cfg = Config({"dfq": default_recipe(LIBRARY if library == "timm" else library)})
    cfg.merge_from_dict(options)
    recipe = recipe_of(cfg, parse_bits(bits) if bits else None)
    if recipe.quantization.pop("scope", "backbone") != "backbone":
        raise UsageError("a model in memory is quantized in scope 'backbone': give a config for scope 'model'")
    return recipe


def quantize_body(student: nn.Module, quantization: dict[str, Any]) -> nn.Module:
    """Quantize the backbone of a teacher's copy in place; a timm model is quantized except for its classifier layer.

    Args:
        student: A copy of the teacher.
        quantization: The keys of the policy; for timm models, overrides for the classifier layer are added.

    Returns:
        The model without the wrapper that :func:`as_teacher` put around it.
    """
    name, part = backbone_of(student)
    student.requires_grad_(True)
    if not isinstance(student, TimmModel):
        quantize_in_place(part, quantization, prefix=name)
        return student
    quantization["overrides"] = [*classifier_overrides(part, name), *quantization.get("overrides", ())]
    quantize_in_place(part, quantization, prefix=name)
    return part


def save_model(model: nn.Module, quantization: dict[str, Any], folder: Path) -> None:
    """Write ``quantized.pth``: the weights, the policy and the architecture, as :func:`load_model` reads them."""
    meta: dict[str, Any] = {"psaq_mm": {**quantization, "scope": "backbone"}}
    described = getattr(model, "pretrained_cfg", None) or {}
    if type(model).__module__.startswith("timm.") and described.get("architecture"):
        meta["timm"] = {"model_name": described["architecture"], "num_classes": getattr(model, "num_classes", 1000)}
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        if size:
            meta["timm"]["img_size"] = list(size)
    plain = Config({"meta": meta}).to_dict()["meta"]
    save_tensors({"meta": plain, "state_dict": model.state_dict()}, folder / "quantized.pth")


def load_model(folder: Path, model: nn.Module | None = None) -> nn.Module:
    """Load a model that :func:`save_model` wrote.

    Args:
        folder: The folder of ``quantized.pth``.
        model: A float model of the same architecture; None if timm can create it by name.

    Returns:
        The quantized model in eval mode.

    Raises:
        UsageError: No model is given, and the file names none of timm.
        PSAQError: The file cannot be read, or the weights do not fit.
    """
    path = folder / "quantized.pth"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        meta, state = saved["meta"], saved["state_dict"]
        quantization = {key: value for key, value in meta["psaq_mm"].items() if key != "scope"}
    except Exception as error:
        raise PSAQError(f"{path} cannot be read ({type(error).__name__}): save the model again") from None
    if model is None and "timm" not in meta:
        raise UsageError(f"{path} does not name its architecture: give load() a float model of it")
    if model is None:
        import timm

        model = timm.create_model(**meta["timm"])
    student = as_teacher(copy.deepcopy(model))
    heads = [one for one in quantization["overrides"] if not one.get("keep_fp")]
    with forms_of(quantization):
        body = quantize_body(student, {**quantization, "overrides": heads})
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise PSAQError(f"{path} belongs to another model than {type(model).__name__}: {reason}") from None
    body.eval()
    check_calibrated(body)
    return body
