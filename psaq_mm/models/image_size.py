"""Checks whether a backbone takes images of a size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import PSAQError, UsageError
from ..generation import initial_images
from .adapters.declaration import FIXED_SIZES, PATCH_MERGINGS, SMALLEST_MAPS, ClassTable
from .backbones import backbone_of
from .features import backbone_outputs
from .preprocessing import pixel_units

T = TypeVar("T")


def check_image_size(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Make sure that images of a size suit a backbone, as far as its adapters declare it.

    Height and width must be multiples of ``patch size * 2 ** mergings``, or else stages would add patches of padding:
    32 for a Swin with patches of 4 and three mergings.

    Args:
        backbone: The backbone.
        size: Height and width.

    Raises:
        UsageError: They are not multiples, a window does not fit into the last map, or the backbone was built for
            another size and takes only that.
    """
    kind = type(backbone).__name__
    shown = f"images of {size[0]}x{size[1]} do not fit {kind}"
    modules = list(backbone.modules())
    for fixed in _declared(FIXED_SIZES, modules):
        if fixed != tuple(size):
            raise UsageError(f"{shown}: it was built for {fixed[0]}x{fixed[1]}, set its img_size or that of the images")
    merges = sum(PATCH_MERGINGS.match(type(module)) is not None for module in modules)
    patch = next((module.stride for module in modules if isinstance(module, nn.Conv2d)), (4, 4))
    unit = tuple(int(p) * 2**merges for p in patch)
    if any(s < u or s % u for s, u in zip(size, unit, strict=True)):
        near = tuple(max(u, round(s / u) * u) for s, u in zip(size, unit, strict=True))
        raise UsageError(f"{shown}: height and width must be multiples of {unit[0]}, for example {near[0]}x{near[1]}")
    smallest = _declared(SMALLEST_MAPS, modules)
    # the last stage has the smallest map
    if smallest and any(s // u < smallest[-1] for s, u in zip(size, unit, strict=True)):
        least = smallest[-1] * unit[0]
        raise UsageError(
            f"{shown}: its last map would be smaller than a window, give {least}x{least} or more, or set pad_small_map"
        )


def _declared(table: ClassTable[Callable[[Any], T | None]], modules: list[nn.Module]) -> list[T]:
    """The values of the adapters' functions for modules, without None."""
    found = [(table.of(type(module)), module) for module in modules]
    values = [function(module) for function, module in found if function is not None]
    return [value for value in values if value is not None]


@torch.no_grad()
def try_image_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Make sure that a float model's backbone computes on images of a size, by one image of noise.

    Not every restriction is declared: position embeddings, for example, have a fixed size in one library and are
    resized in another.

    Args:
        model: In eval mode.
        size: Height and width.

    Raises:
        UsageError: The forward pass fails.
        PSAQError: Its outputs are not finite.
    """
    backbone = backbone_of(model)[1]
    units = pixel_units(model)
    like = next(model.parameters())
    drawn = initial_images(1, size, units.lower, units.upper, torch.Generator().manual_seed(0))
    image = units.to_network(drawn).to(like.device, like.dtype)
    shown = f"images of {size[0]}x{size[1]}"
    try:
        outputs = backbone_outputs(model, image)
    except MemoryError:
        raise
    except Exception as error:  # hosts raise errors of any kind for a wrong size
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{shown} do not fit {type(backbone).__name__} ({reason}): set image_size to a size that it takes, such as "
            "that of its training"
        ) from error
    if not all(bool(torch.isfinite(one).all()) for one in outputs):
        raise PSAQError(
            f"the float model's outputs on {shown} are not finite: the checkpoint is broken or of another config"
        )
