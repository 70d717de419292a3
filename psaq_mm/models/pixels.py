"""What a model's data preprocessor says of the pixels that the network gets."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pixel_bounds(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The valid range of pixels in normalised units, from the data preprocessor: two ``(3,)`` tensors.

    A pixel p in [0, 255] becomes ``(p - mean) / std``. Where the preprocessor normalises nothing, the range is
    [0, 255] itself.

    Example: ImageNet's red, mean 123.675 and standard deviation 58.395, lies in [-2.118, 2.249].
    """
    preprocessor = model.data_preprocessor
    if not getattr(preprocessor, "_enable_normalize", hasattr(preprocessor, "mean")):
        return torch.zeros(3), torch.full((3,), 255.0)
    mean, std = preprocessor.mean.view(-1).cpu(), preprocessor.std.view(-1).cpu()
    return (0 - mean) / std, (255 - mean) / std


def takes_rgb(model: nn.Module) -> bool:
    """Whether the network gets RGB images, rather than BGR."""
    preprocessor = model.data_preprocessor
    return bool(getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "to_rgb", True)))
