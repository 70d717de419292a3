"""A model in memory, quantized by the algorithm of :mod:`psaq_mm.distillation` without config and runner."""

from __future__ import annotations

import copy
from collections.abc import Callable
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
from .generation import Discrepancy, SamplePool
from .models import (
    backbone_of,
    backbone_outputs,
    check_image_size,
    output_function,
    policy_of,
    quantize_in_place,
    try_image_size,
    without_checkpointing,
)
from .models.checkpoint import check_finite
from .quantization import CoverageReport, check_calibrated, coverage, freeze, make_rounding, recording_sqnr
from .utils.atomic_files import save_tensors

LIBRARY = "mmpretrain"  # whose recipe timm's models get
STAGE_KEYS = ("type", "images", "image_size", "samples")


class TimmModel(nn.Module):
    """A model of timm as the adapters expect a classifier: the body in ``model``, the normalisation beside it.

    Args:
        model: Of timm; ``pretrained_cfg`` says the mean and standard deviation of its pixels, in [0, 1].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        described = getattr(model, "pretrained_cfg", None) or {}
        self.data_preprocessor = nn.Module()
        for name, default in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            value = torch.tensor(described.get(name) or default).view(-1, 1, 1)
            self.data_preprocessor.register_buffer(name, value, persistent=False)
        self.data_preprocessor.to_rgb = True

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(images, classes)``."""
        return self.model(images)


@dataclass(frozen=True)
class Quantized:
    """What :func:`quantize_model` makes.

    Attributes:
        model: The quantized model, of the class of the one given.
        teacher: The float model as the adapters see it.
        coverage: What is quantized and what is not.
        images: The samples, as the network gets them.
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
        progress: True, False, or a function of stage, steps done and steps in all.
    """

    def __init__(self, progress: bool | Callable[[str, int, int], None]) -> None:
        self.report = progress if callable(progress) else None
        self.bars = ProgressHook() if progress is True else None
        self.run = SimpleNamespace(shows_progress=True)
        self.total = 0

    def begin(self, stage: str, total: int) -> None:
        """A stage of ``total`` steps begins."""
        self.total = total
        if self.bars:
            self.bars.before_stage(self.run, stage, total)

    def step(self, stage: str, step: int, save: Callable[[], None] | None = None, due: bool = False) -> None:
        """A step is done."""
        if self.report:
            self.report(stage, step, self.total)
        if self.bars:
            self.bars.after_stage_step(self.run, stage, step)
            if step == self.total:
                self.bars.after_stage(self.run, stage)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars:
            self.bars.after_run(self.run)


class MemoryStore:
    """Keeps images in memory (:class:`psaq_mm.generation.ImageStore`)."""

    def __init__(self) -> None:
        self.images: dict[str, Tensor] = {}

    def keep(self, image: Tensor) -> str:
        """Take an image and give its name."""
        name = str(len(self.images))
        self.images[name] = image
        return name

    def open(self, name: str) -> Tensor:
        """The image of a name."""
        return self.images[name]


def quantize_model(
    model: nn.Module,
    bits: str | None,
    image_size: int | tuple[int, int] | None,
    seed: int,
    options: dict[str, Any],
    progress: bool | Callable[[str, int, int], None],
) -> Quantized:
    """Quantize a copy of a model in memory; see :func:`psaq_mm.quantize`.

    Raises:
        UsageError: The model is not supported, or a setting is not valid.
    """
    teacher = as_teacher(copy.deepcopy(model))
    recipe = recipe_for(model, bits, options)
    size = height_and_width(image_size or recipe.generate.image_size)
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
    """Generate, calibrate, distill; the student is changed in place.

    Returns:
        The samples.
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
    discrepancy = Discrepancy(**(options["discrepancy"] or {}))
    improver = ImageGenerator(frozen, source.generator, seed, events.warn, **(options["generator"] or {}))
    count, start = recipe.generate.images, first.get("start", "fractal")
    batch, steps = first.get("batch_size", 16), first.get("steps", 100)
    pool.add(generate(source, generator, MemoryStore(), count, size, start, batch, steps, events=events), tag="first")
    images = pool.first(recipe.calibrate.get("images", 32))
    rounding = make_rounding(calibration.get("rounding", "nearest"))
    calibrate(student, images, backbone_outputs, calibration.get("batch_size", 8), rounding, events=events)
    TeacherStudentCycle(source, student, pool, outputs, discrepancy, settings, improver, events=events).run()
    with recording_sqnr(student), torch.no_grad():
        for part in pool.first(32).split(8):
            backbone_outputs(student, part.to(frozen.device))
    freeze(student)
    return pool.images


def as_teacher(model: nn.Module) -> nn.Module:
    """A model as the adapters expect it, frozen, in eval mode.

    Raises:
        UsageError: It is neither timm's nor one with a ``backbone``.
    """
    if type(model).__module__.startswith("timm."):
        model = TimmModel(model)
    elif not isinstance(getattr(model, "backbone", None), nn.Module):
        raise UsageError(
            f"{type(model).__name__} has no backbone and is not of timm: give a detector, a segmentor or a classifier "
            "of OpenMMLab, or a model of timm"
        )
    model.eval()
    model.requires_grad_(False)
    without_checkpointing(model)
    return model


def recipe_for(model: nn.Module, bits: str | None, options: dict[str, Any]) -> Any:
    """The recipe of the model's library with the options merged in, at the bit width asked for."""
    library = type(model).__module__.partition(".")[0]
    cfg = Config({"dfq": default_recipe(LIBRARY if library == "timm" else library)})
    cfg.merge_from_dict(options)
    recipe = recipe_of(cfg, parse_bits(bits) if bits else None)
    if recipe.quantization.pop("scope", "backbone") != "backbone":
        raise UsageError("a model in memory is quantized in scope 'backbone': give a config for scope 'model'")
    if library == "timm":  # patterns of the recipes name OpenMMLab's models
        recipe.quantization.overrides = [{"pattern": "model.patch_embed", "bits": 8}]
    return recipe


def quantize_body(student: nn.Module, quantization: dict[str, Any]) -> nn.Module:
    """Quantize the backbone of a teacher's copy in place; of timm's models all but the layer that gives the classes.

    Returns:
        The model of the class that was given to :func:`quantize_model`.
    """
    name, part = backbone_of(student)
    student.requires_grad_(True)
    if not isinstance(student, TimmModel):
        quantize_in_place(part, quantization, prefix=name)
        return student
    found = part.get_classifier() if hasattr(part, "get_classifier") else ()
    heads = set(found) if isinstance(found, (tuple, list)) else {found}
    kept = [{"pattern": f"model.{key}", "keep_fp": True} for key, module in part.named_modules() if module in heads]
    quantization["overrides"] = [*kept, *quantization.get("overrides", ())]
    quantize_in_place(part, quantization, prefix=name)
    return part


def save_model(model: nn.Module, quantization: dict[str, Any], folder: Path) -> None:
    """Write ``quantized.pth``: the weights, and what :func:`load_model` needs to rebuild the model."""
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
    """Rebuild a model that :func:`save_model` wrote.

    Args:
        folder: Of ``quantized.pth``.
        model: A float model of the same architecture; None where timm makes it by name.

    Raises:
        UsageError: The architecture is not known.
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
    body = quantize_body(student, {**quantization, "overrides": heads})
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise PSAQError(f"{path} belongs to another model than {type(model).__name__}: {reason}") from None
    body.eval()
    check_calibrated(body)
    return body
