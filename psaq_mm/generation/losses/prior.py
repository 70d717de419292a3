"""The image prior ``L_TV``: neighbouring pixels differ about as much as in photographs.

V1's published code (PSAQ-ViT, Li et al., ECCV 2022) computes over a whole batch::

    L_TV = 0.05 |TV - t|,    TV = sum of the L2 norms of four difference images,    t ~ U(2500, 3000), once a run

"for batch size 32" at 224 x 224 pixels. TV is about ``4 sqrt(n) r`` with n = 32 * 3 * 224 * 224 values and the
root-mean-square difference r of neighbouring pixels, so this equals ``0.05 * 4 sqrt(n) |r - t / (4 sqrt(n))|``. Hence
our form, which depends on neither batch size nor resolution::

    L_TV = weight * mean_b | mean_k r_bk - target |,    weight = 439,    target in [0.285, 0.342]

with the root-mean-square difference ``r_bk`` of image b in direction k (:func:`rms_differences`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import GenerationError

# Under the root, so that a constant image has gradient 0, not NaN.
EPS = 1e-12


class ImagePrior(nn.Module):
    """The loss ``L_TV = weight * mean_b | mean_k r_bk - target |``; the module's docstring derives it.

    Example: an image with root-mean-square difference 0.5 and the default target 0.3135 has the loss 439 * 0.1865 =
    81.9.

    Args:
        target: Range of the target, in units of the normalised image; its middle is used until :meth:`draw`.
        weight: Factor of the loss. In V1 the prior is added to an entropy summed over L layers; with a mean over
            layers, 439 / L gives the same balance.

    Attributes:
        target: The target for all images, a scalar; part of the state dict.

    Raises:
        GenerationError: The range is empty or negative, or the weight is negative.
    """

    target: Tensor

    def __init__(self, target: tuple[float, float] = (0.285, 0.342), weight: float = 439.0) -> None:
        super().__init__()
        low, high = target
        if not 0 <= low <= high:
            raise GenerationError(f"target range {target} must satisfy 0 <= low <= high")
        if not weight >= 0:
            raise GenerationError(f"weight {weight} must not be negative")
        self.bounds, self.weight = (float(low), float(high)), float(weight)
        self.register_buffer("target", torch.tensor((low + high) / 2))

    def draw(self, generator: torch.Generator | None = None) -> float:
        """Draws the target uniformly from its range, as V1 does once per run, and returns it."""
        device = None if generator is None else generator.device
        share = float(torch.rand((), generator=generator, device=device))
        low, high = self.bounds
        self.target.fill_(low + (high - low) * share)
        return float(self.target)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss, a scalar.

        Args:
            x: Images, shape ``(batch, channels, H, W)``.
            target: A separate target for each image, shape ``(batch,)``; None for the common one.

        Raises:
            GenerationError: See :func:`rms_differences`.
        """
        goal = self.target if target is None else target
        return self.weight * (rms_differences(x).mean(dim=1) - goal).abs().mean()

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"target={float(self.target):.4g} of {self.bounds}, weight={self.weight:g}"


def rms_differences(x: Tensor) -> Tensor:
    """Root-mean-square difference between neighbouring pixels in four directions.

    ::

        r_bk = sqrt(mean over channels and positions of (x_b - x_b shifted by one pixel in direction k)^2 + 1e-12)

    Example: columns alternating between 0 and 1 give 1 horizontally, 0 vertically and 1 on both diagonals.

    Args:
        x: Images, shape ``(batch, channels, H, W)``, H and W at least 2.

    Returns:
        Shape ``(batch, 4)``: horizontal, vertical, the diagonal running down left, the one running down right.

    Raises:
        GenerationError: The images are smaller than 2 x 2 pixels or not four-dimensional.
    """
    if x.dim() != 4 or min(x.shape[2:]) < 2:
        raise GenerationError(
            f"images of shape {tuple(x.shape)}: pass (batch, channels, H, W) of at least 2 x 2 pixels"
        )
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., 1:, 1:] - x[..., :-1, :-1],
    )
    means = [difference.square().mean(dim=(1, 2, 3)) for difference in differences]
    return torch.sqrt(torch.stack(means, dim=1) + EPS)
