"""Range estimator ``'mse'``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import affine_parameters, power_of_two
from .base import Observer, register_observer, subsample

CLIP_RATIOS = 31
LOWEST_RATIO = 0.4


@register_observer("mse")
class MSEObserver(Observer):
    """Shrinks the min-max range by the ratio with the smallest quantization error; mean over the batches.

    For each row, the ratio among 31 from 0.4 to 1 that minimises ``sum (x - fake_quantize(x))^2``. Of equal errors the
    larger ratio is taken. Both ends of the range are multiplied by the ratio.
    """

    uniform_grid_only = True

    def estimate(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The shrunk range of each row (subsampled, see :func:`subsample`)."""
        sample, (low, high), unit = self.normalized(subsample(rows), low, high)
        best = torch.full_like(low, torch.inf)
        ratio = torch.ones_like(low)
        for candidate in torch.linspace(1, LOWEST_RATIO, CLIP_RATIOS).tolist():
            scale, zero_point = affine_parameters(low * candidate, high * candidate, self.spec)
            quantized = torch.fake_quantize_per_channel_affine(
                sample, scale, zero_point.int(), 0, self.spec.quant_min, self.spec.quant_max
            )
            loss = (sample - quantized).square().sum(dim=1)
            better = loss < best
            best = torch.where(better, loss, best)
            ratio = torch.where(better, candidate, ratio)
        return low * ratio * unit, high * ratio * unit

    @staticmethod
    def normalized(sample: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Rows and ranges divided by a power of two near each row's largest value, so that squares stay in float32.

        Returns:
            The rows, their ranges and the powers of two, ``(rows,)``.
        """
        unit = power_of_two(torch.stack([low, high], dim=1), dim=1)
        return sample / unit, (low / unit[:, 0], high / unit[:, 0]), unit[:, 0]
