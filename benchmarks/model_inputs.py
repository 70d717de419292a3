"""The images of the benchmarks of whole models, and what each static part receives of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.model_run import Batch, predict, sample_of
from psaq_mm.deployment.parts import IMAGES, StaticPart
from psaq_mm.engine.arms import real_dataset
from psaq_mm.engine.dataset_checks import build_dataset, missing_path
from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.generation import initial_images
from psaq_mm.models import pixel_units

# RoIs of an image that a head is calibrated on.
ROIS = 64


def noise_images(model: nn.Module, size: tuple[int, int], count: int) -> list[Batch]:
    """Batches of one image of fractal noise."""
    units = pixel_units(model)
    seed = torch.Generator().manual_seed(0)
    images = units.to_network(initial_images(count, size, units.lower, units.upper, seed, "fractal"))
    return [(image[None], [sample_of(model, size)]) for image in images]


def real_images(cfg: Config, model: nn.Module, size: tuple[int, int], count: int) -> list[Batch]:
    """Batches of one training image, drawn with a fixed seed, after the test pipeline and the data preprocessor.

    Args:
        cfg: The recipe.
        model: The float model.
        size: Height and width; smaller images are padded with zeros, larger ones are left out.
        count: How many.

    Raises:
        UsageError: The recipe names no training images, or fewer than ``count`` of them fit.
        PSAQError: The data set does not exist.
    """
    described = real_dataset(cfg)
    if described is None:
        raise UsageError("the recipe names no training images: set real_images in it, or give --random")
    try:
        dataset = build_dataset(described, model)
    except FileNotFoundError as error:
        raise PSAQError(
            f"the training images are not there ({missing_path(error)}): put them there, or give --random"
        ) from None
    preprocess: Any = model.data_preprocessor
    found: list[Batch] = []
    seen = (0, 0)
    for index in torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist():
        packed = dataset[index]
        batch = preprocess({"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}, False)
        seen = tuple(batch["inputs"].shape[-2:])
        spare = size[0] - seen[0], size[1] - seen[1]
        if min(spare) >= 0:
            found.append((F.pad(batch["inputs"], (0, spare[1], 0, spare[0])), batch["data_samples"]))
        if len(found) == count:
            return found
    raise UsageError(
        f"{len(found)} of {len(dataset)} training images fit into {size[0]}x{size[1]}, {count} are needed: give a "
        f"larger --size (the last has {seen[0]}x{seen[1]}) or fewer --samples"
    )


def part_inputs(
    model: nn.Module, parts: Sequence[StaticPart], batches: Sequence[Batch], limit: int | None = ROIS
) -> dict[str, list[Tensor]]:
    """What each part receives while a model predicts: the image, or RoI features.

    Args:
        model: The float model.
        parts: Its static parts.
        batches: The images.
        limit: Most RoIs of an image; None for all.

    Returns:
        Tensors by name of the part; images without a detection add nothing to a mask head's.

    Raises:
        UsageError: A head received nothing.
    """
    found: dict[str, list[Tensor]] = {part.name: [] for part in parts}
    found[IMAGES] = [images for images, _ in batches]
    handles = []
    for part in parts:
        if part.name != IMAGES:

            def listen(_: nn.Module, args: Any, name: str = part.name) -> None:
                if len(args[0]):
                    found[name].append(args[0][:limit].detach().clone())

            handles.append(model.get_submodule(part.covers[0]).register_forward_pre_hook(listen))
    try:
        if handles:
            for batch in batches:
                predict(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    empty = [name for name, inputs in found.items() if not inputs]
    if empty:
        raise UsageError(
            f"the float model finds nothing for {empty[0]} on {len(batches)} images: give --proposals and --masks, or "
            "more --samples"
        )
    return found
