"""Where generation starts: white noise, as V1, or noise with the statistics of pictures (ours)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import GenerationError

Bounds = Tensor | Sequence[float]


def white_noise(count: int, size: tuple[int, int], lower: Bounds, upper: Bounds, generator: torch.Generator) -> Tensor:
    """Gaussian noise, where V1 starts.

    Args:
        count: Number of images.
        size: Height and width.
        lower: Smallest valid value per channel, in normalised units: ``(0 - mean) / std``.
        upper: Largest: ``(255 - mean) / std`` for 8-bit statistics.
        generator: Source of randomness; the images lie on its device.

    Returns:
        ``N(0, 1)`` clamped to the bounds, shape ``(count, channels, H, W)``, float32.

    Raises:
        GenerationError: The bounds are no bounds.
    """
    low, high = channel_bounds(lower, upper, generator.device)
    noise = torch.randn((count, len(low), *size), generator=generator, device=generator.device)
    return noise.clamp_(low, high)


def fractal_noise(
    count: int,
    size: tuple[int, int],
    lower: Bounds,
    upper: Bounds,
    generator: torch.Generator,
    exponent: tuple[float, float] = (0.5, 2.0),
    contrast: tuple[float, float] = (0.4, 1.0),
) -> Tensor:
    """Noise with a power law for a spectrum, and a brightness, colour and contrast of its own for every image (ours).

    The amplitude spectra of photographs of any subject fall about as ``1 / f`` (Field, *Relations between the
    statistics of natural images and the response properties of cortical cells*, JOSA A 4, 1987). Per image::

        x = mean + contrast * y,    y = irfft2(rfft2(white) / f^a) scaled to a standard deviation of 1
        a ~ U(exponent),  contrast ~ U(contrast),  mean = low + (high - low) * clip(U(0, 1) + 0.15 N(0, 1)^channels)

    and the channels are mixed with their common part by a random share, since colours are correlated. It knows nothing
    of any task or data set: a network that must serve flat dark images as well as busy bright ones meets both here,
    while white noise shows it one single kind, all high frequencies.

    Args:
        count: Number of images.
        size: Height and width.
        lower: Smallest valid value per channel, in normalised units.
        upper: Largest valid value per channel.
        generator: Source of randomness; the images lie on its device.
        exponent: Range of ``a``: 0 is white, 1 like photographs, 2 smooth.
        contrast: Range of the standard deviation, in normalised units, in which a data set's is 1.

    Returns:
        Shape ``(count, channels, H, W)``, float32, within the bounds.

    Raises:
        GenerationError: The bounds are no bounds.
    """
    low, high = channel_bounds(lower, upper, generator.device)
    channels, (height, width), device = len(low), size, generator.device

    def uniform(ends: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        return ends[0] + (ends[1] - ends[0]) * torch.rand((count, 1, 1, 1), generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn((count, channels, *shape), generator=generator, device=device)

    rows = torch.fft.fftfreq(height, device=device)[:, None]
    columns = torch.fft.rfftfreq(width, device=device)[None]
    frequency = (rows.square() + columns.square()).sqrt()
    frequency[0, 0] = 1 / max(height, width)
    white, share = normal(height, width), uniform()
    # The common part of n independent channels has 1 / sqrt(n) of their deviation.
    white = (1 - share) * white + share * channels**0.5 * white.mean(1, keepdim=True)
    y = torch.fft.irfft2(torch.fft.rfft2(white) / frequency ** uniform(exponent), s=size)  # (count, channels, H, W)
    y = y - y.mean((2, 3), keepdim=True)
    y = y / y.std((1, 2, 3), keepdim=True)
    mean = low + (high - low) * (uniform() + 0.15 * normal(1, 1)).clamp(0, 1)
    return torch.minimum(torch.maximum(mean + uniform(contrast) * y, low), high)


STARTS: dict[str, Callable[..., Tensor]] = {"white": white_noise, "fractal": fractal_noise}


def initial_images(
    count: int,
    size: tuple[int, int],
    lower: Bounds,
    upper: Bounds,
    generator: torch.Generator,
    start: str = "white",
) -> Tensor:
    """Images to start from, by name: ``"white"`` (:func:`white_noise`) or ``"fractal"`` (:func:`fractal_noise`).

    Raises:
        GenerationError: The name is unknown.
    """
    if start not in STARTS:
        raise GenerationError(f"start {start!r} is unknown: choose one of {', '.join(STARTS)}")
    return STARTS[start](count, size, lower, upper, generator)


def channel_bounds(lower: Bounds, upper: Bounds, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both bounds as float32 ``(channels, 1, 1)``.

    Raises:
        GenerationError: They have different lengths, or a lower bound is not below its upper one.
    """
    low, high = (torch.as_tensor(bound, dtype=torch.float32, device=device) for bound in (lower, upper))
    if low.dim() != 1 or low.shape != high.shape or not bool((low < high).all()):
        raise GenerationError("lower and upper must be one value a channel each, lower below upper")
    return low.view(-1, 1, 1), high.view(-1, 1, 1)
