"""The units of generated images, and their conversion to the network's input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..utils.class_table import full_name
from .backbones import backbone_of

# Of ImageNet's pixels, in RGB order: V1's rates, prior and noise are for images normalised by them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# The largest pixel of images in [0, 1], of 8, 12 and 16 bits.
PEAKS = (1.0, 255.0, 4095.0, 65535.0)
FOCUS = "mmdet.models.backbones.csp_darknet.Focus"


@dataclass(frozen=True, eq=False)
class PixelUnits:
    """The linear map between the units of generation and those of the network.

    Rates, contrast and the image prior are for pixels of mean 0 and standard deviation 1. The output of a model's data
    preprocessor may be that, or pixels in [0, 255] if the normalisation is part of the network, or [-1, 1]. Images are
    therefore generated in fixed units, z, independent of the preprocessor, and the network gets x::

        z = (p - m) / s,    x = (p - mean) / std = z * s / std + (m - mean) / std

    with pixels p, ImageNet's statistics m and s, and the preprocessor's mean and std. If these are ImageNet's too, x
    is the same tensor as z.

    Example: without normalisation by the preprocessor, x = p. Red z = 1 is x = 58.395 + 123.675 = 182.07.

    Attributes:
        lower: The smallest valid z of every channel, ``(channels,)``.
        upper: The largest.
        gain: s / std, ``(channels,)``.
        offset: (m - mean) / std, ``(channels,)``.
    """

    lower: Tensor
    upper: Tensor
    gain: Tensor
    offset: Tensor

    @property
    def identical(self) -> bool:
        """Whether z equals x for every pixel."""
        return bool((self.gain == 1).all() and (self.offset == 0).all())

    def to_network(self, images: Tensor) -> Tensor:
        """From z to x, ``(batch, channels, H, W)``."""
        if self.identical:
            return images
        return images * self._shaped(self.gain, images) + self._shaped(self.offset, images)

    def from_network(self, images: Tensor) -> Tensor:
        """From x to z, ``(batch, channels, H, W)``."""
        if self.identical:
            return images
        return (images - self._shaped(self.offset, images)) / self._shaped(self.gain, images)

    @staticmethod
    def _shaped(values: Tensor, images: Tensor) -> Tensor:
        return values.to(images.device).view(-1, 1, 1)


def pixel_units(model: nn.Module) -> PixelUnits:
    """The units of a model's images, from its data preprocessor and its first convolution."""
    channels = image_channels(backbone_of(model)[1])
    mean, std, peak = statistics(model, channels)
    if channels == len(IMAGENET_MEAN):
        order = [0, 1, 2] if takes_rgb(model) else [2, 1, 0]
        m, s = torch.tensor(IMAGENET_MEAN)[order], torch.tensor(IMAGENET_STD)[order]
    else:  # grey, or channels that ImageNet does not have: the mean over its colours
        m, s = (torch.tensor(one).mean().expand(channels) for one in (IMAGENET_MEAN, IMAGENET_STD))
    m, s = m * (peak / 255), s * (peak / 255)
    return PixelUnits((0 - m) / s, (peak - m) / s, s / std, (m - mean) / std)


def pixel_bounds(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The valid range of the network's input, from the data preprocessor: two ``(channels,)`` tensors.

    A pixel p in [0, 255] becomes ``(p - mean) / std``. Without normalisation the range is [0, 255].

    Example: ImageNet's red, mean 123.675 and standard deviation 58.395, lies in [-2.118, 2.249].
    """
    mean, std, peak = statistics(model, image_channels(backbone_of(model)[1]))
    return (0 - mean) / std, (peak - mean) / std


def statistics(model: nn.Module, channels: int) -> tuple[Tensor, Tensor, float]:
    """Mean and std of a model's data preprocessor, ``(channels,)`` each, and the largest pixel.

    The range of pixels is derived, since preprocessors do not contain it: [0, 1] if all of mean and std are fractions
    of 1, 12 or 16 bits if the mean is above 255, else 8 bits.

    Example: mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225] are for pixels in [0, 1].
    """
    preprocessor = preprocessor_of(model)
    if not getattr(preprocessor, "_enable_normalize", hasattr(preprocessor, "mean")):
        return torch.zeros(channels), torch.ones(channels), 255.0
    mean, std = (getattr(preprocessor, key).detach().float().cpu().view(-1) for key in ("mean", "std"))
    fractions = bool((mean.abs() <= 1).all() and (std < 1).all())
    peak = PEAKS[0] if fractions else next((one for one in PEAKS[1:] if float(mean.max()) <= one), PEAKS[-1])
    # one value may be for all channels; stacked images (of two dates, say) repeat a single one's values
    mean, std = (one.repeat(-(-channels // len(one)))[:channels] for one in (mean, std))
    return mean, std, peak


def preprocessor_of(model: nn.Module) -> nn.Module | None:
    """The data preprocessor that normalises; preprocessors for several branches contain it."""
    preprocessor = getattr(model, "data_preprocessor", None)
    while isinstance(inner := getattr(preprocessor, "data_preprocessor", None), nn.Module):
        preprocessor = inner
    return preprocessor


def image_channels(backbone: nn.Module) -> int:
    """The channels of the images that a backbone takes: those of its first convolution; 3 without convolutions.

    mmdet's ``Focus`` (YOLOX) puts four pixels into the channels of one before its convolution.
    """
    merged = 1
    for module in backbone.modules():
        if full_name(type(module)) == FOCUS:
            merged = 4
        elif isinstance(module, nn.Conv2d):
            return module.in_channels // merged
    return 3


def takes_rgb(model: nn.Module) -> bool:
    """Whether the network gets RGB images, rather than BGR."""
    preprocessor = preprocessor_of(model)
    return bool(getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "to_rgb", True)))
