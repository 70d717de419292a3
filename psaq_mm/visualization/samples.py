"""Pictures of samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..models import pixel_bounds, takes_rgb


def samples_picture(images: Tensor, model: nn.Module, columns: int = 8) -> np.ndarray:
    """Arrange network inputs in a picture, ``(H, W, 3)`` uint8 in RGB order.

    Args:
        images: Network inputs, ``(count, channels, H, W)``.
        model: The network; its data preprocessor defines the pixel values.
        columns: Images per row.
    """
    lower, upper = pixel_bounds(model)
    channels = list(range(len(lower)))
    if len(channels) == 3 and not takes_rgb(model):
        channels.reverse()
    return image_grid(images[:, channels], lower[channels], upper[channels], columns)


def image_grid(images: Tensor, lower: Tensor, upper: Tensor, columns: int = 8) -> np.ndarray:
    """Arrange images in a grid with gaps of two pixels, ``(H, W, 3)`` uint8.

    With one channel the picture is grey, with two it shows their mean, and with more than three the first three.

    Args:
        images: ``(count, channels, H, W)``.
        lower: The value of each channel that becomes 0, ``(channels,)``.
        upper: The value of each channel that becomes 255, ``(channels,)``.
        columns: Images per row.
    """
    low, high = lower.view(1, -1, 1, 1), upper.view(1, -1, 1, 1)
    pixels = ((images - low) / (high - low) * 255).round().clamp(0, 255)
    grey = pixels.shape[1] < 3
    pixels = (pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1) if grey else pixels[:, :3]).to(torch.uint8)
    count, _, height, width = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = torch.full((3, rows * (height + 2) - 2, columns * (width + 2) - 2), 255, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).numpy()
