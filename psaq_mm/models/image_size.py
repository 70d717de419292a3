"""Whether a backbone takes images of a size."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import PSAQError, UsageError
from ..generation import initial_images
from .backbones import backbone_of
from .features import backbone_outputs
from .preprocessing import pixel_units


def check_image_size(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Make sure that images of a size suit the backbone.

    Raises:
        UsageError: They don't: a hierarchical backbone halves the image, and a size it must pad at every stage
            would make patches of padding; some of timm's take only the size they were built for.
    """
    kind = type(backbone).__name__
    for module in backbone.modules():
        fixed = getattr(module, "img_size", None) if getattr(module, "strict_img_size", False) else None
        if fixed is not None and not getattr(module, "dynamic_img_pad", False) and tuple(fixed) != tuple(size):
            raise UsageError(
                f"images of {size[0]}x{size[1]} do not fit {kind}: it was built for {fixed[0]}x{fixed[1]}, "
                "set its img_size or that of the images"
            )
    merges = sum(type(module).__name__ == "PatchMerging" for module in backbone.modules())
    patch = next((module.stride for module in backbone.modules() if isinstance(module, nn.Conv2d)), (4, 4))
    unit = tuple(int(p) * 2**merges for p in patch)
    if any(s < u or s % u for s, u in zip(size, unit, strict=True)):
        near = tuple(max(u, round(s / u) * u) for s, u in zip(size, unit, strict=True))
        raise UsageError(
            f"images of {size[0]}x{size[1]} do not fit {kind}: height and width must be "
            f"multiples of {unit[0]}, for example {near[0]}x{near[1]}"
        )
    # mmpretrain's windows, unless they may be padded; the last stage has the smallest map
    windows = [module.window_size for module in backbone.modules() if getattr(module, "pad_small_map", None) is False]
    if windows and any(s // u < windows[-1] for s, u in zip(size, unit, strict=True)):
        least = windows[-1] * unit[0]
        raise UsageError(
            f"images of {size[0]}x{size[1]} do not fit {kind}: its last map would be smaller than a window, "
            f"give {least}x{least} or more, or set pad_small_map"
        )


@torch.no_grad()
def try_image_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Make sure that a float model's backbone computes on images of a size, by one image of noise.

    What a backbone asks of its images is known to nobody but its forward pass: a table of position embeddings, say,
    may be of a fixed size in one library and be resized in another.

    Args:
        model: In eval mode.
        size: Height and width.

    Raises:
        UsageError: The forward pass fails.
        PSAQError: What it gives is not finite.
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
    except Exception as error:  # whatever a host's code makes of a size that it does not take
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{shown} do not fit {type(backbone).__name__} ({reason}): set image_size to a size that it takes, such as "
            "that of its training"
        ) from error
    if not all(bool(torch.isfinite(one).all()) for one in outputs):
        raise PSAQError(
            f"the float model's outputs on {shown} are not finite: the checkpoint is broken or of another config"
        )
