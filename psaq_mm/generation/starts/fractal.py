"""Noise with the power spectrum of photographs (ours).

The amplitude spectra of photographs fall about as ``1 / f``, whatever they show (Field, *Relations between the
statistics of natural images and the response properties of cortical cells*, JOSA A 4, 1987). The
spectrum of white noise, from which V1 starts, is constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import STARTS, ImageStart


@STARTS.register("fractal")
class FractalNoise(ImageStart):
    """Noise whose spectrum follows a power law, with a random brightness, colour and contrast per image.

    Per image::

        x = mean + contrast * y,    y = irfft2(rfft2(white) / f^a) scaled to a standard deviation of 1
        a ~ U(exponent),  contrast ~ U(contrast),  mean = low + (high - low) * clip(U(0, 1) + 0.15 N(0, 1)^channels)

    Before the filter, every channel is mixed with the mean over channels by a random share, because the channels of
    photographs are correlated. The result is clamped to the bounds. No task and no data set enters. Both flat dark and
    detailed bright images occur, so activation ranges are calibrated on both.

    Args:
        exponent: Range of ``a``: 0 gives white noise, 1 the spectrum of photographs, 2 smooth images.
        contrast: Range of the standard deviation, in normalised units, in which a data set's is 1.
    """

    def __init__(self, exponent: tuple[float, float] = (0.5, 2.0), contrast: tuple[float, float] = (0.4, 1.0)) -> None:
        self.exponent, self.contrast = exponent, contrast

    def draw(self, count: int, size: tuple[int, int], low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
        """Draws images; see :meth:`ImageStart.draw`."""
        channels, (height, width), device = len(low), size, generator.device

        def uniform(ends: tuple[float, float] = (0.0, 1.0)) -> Tensor:
            return ends[0] + (ends[1] - ends[0]) * torch.rand((count, 1, 1, 1), generator=generator, device=device)

        def normal(*shape: int) -> Tensor:
            return torch.randn((count, channels, *shape), generator=generator, device=device)

        rows = torch.fft.fftfreq(height, device=device)[:, None]
        columns = torch.fft.rfftfreq(width, device=device)[None]
        frequency = (rows.square() + columns.square()).sqrt()  # (H, W // 2 + 1)
        frequency[0, 0] = 1 / max(height, width)
        white, share = normal(height, width), uniform()
        # The mean of n independent channels has 1 / sqrt(n) of their standard deviation.
        white = (1 - share) * white + share * channels**0.5 * white.mean(1, keepdim=True)
        spectrum = torch.fft.rfft2(white) / frequency ** uniform(self.exponent)
        y = torch.fft.irfft2(spectrum, s=size)  # (count, channels, H, W)
        y = y - y.mean((2, 3), keepdim=True)
        y = y / y.std((1, 2, 3), keepdim=True)
        mean = low + (high - low) * (uniform() + 0.15 * normal(1, 1)).clamp(0, 1)
        return torch.minimum(torch.maximum(mean + uniform(self.contrast) * y, low), high)
