"""Image prior: neighbouring pixels differ about as much as in photographs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import GenerationError

# Under the root, so that a constant image has gradient 0, not NaN.
EPS = 1e-12


class ImagePrior(nn.Module):
    """Pulls the mean neighbour difference of every image to a target.

    V1's published code computes, over a whole batch, ``0.05 |TV - t|`` with ``TV`` the sum of the L2 norms of four
    difference images (:func:`v1_tv`) and ``t ~ U(2500, 3000)`` drawn once a run, "for batch size 32" at 224 x 224. As
    ``TV`` is about ``4 sqrt(n) r`` with n = 32 * 3 * 224 * 224 values and r the root-mean-square difference, that is
    ``0.05 * 4 sqrt(n) |r - t / (4 sqrt(n))|``, hence ours, which depends on neither batch nor resolution::

        L = weight * mean_b | mean_k r_bk - target |,    weight = 439,   target in [0.285, 0.342]

    with ``r_bk`` of :func:`rms_differences`.

    Example: an image of rms difference 0.5 and the default target 0.3135 lose 439 * 0.1865 = 81.9.

    Args:
        target: Range of the target, in units of the normalised image; the middle holds until :meth:`draw`.
        weight: Factor of the loss. V1's stands beside an entropy summed over L layers; beside a mean over layers the
            same balance takes 439 / L.

    Raises:
        GenerationError: The range is empty or negative, or the weight is.
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
        """Draws the target uniformly from its range, as V1 does once a run, and returns it."""
        device = None if generator is None else generator.device
        share = float(torch.rand((), generator=generator, device=device))
        low, high = self.bounds
        self.target.fill_(low + (high - low) * share)
        return float(self.target)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss, a scalar.

        Args:
            x: Images ``(batch, channels, H, W)``.
            target: A target of its own for every image, shape ``(batch,)``; None for the one drawn for all.
        """
        goal = self.target if target is None else target
        return self.weight * (rms_differences(x).mean(dim=1) - goal).abs().mean()

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"target={float(self.target):.4g} of {self.bounds}, weight={self.weight:g}"


def rms_differences(x: Tensor) -> Tensor:
    """Root-mean-square difference between neighbouring pixels in four directions.

    Example: columns alternating between 0 and 1 give 1 horizontally, 0 vertically and 1 on both diagonals.

    Args:
        x: Images, shape ``(batch, channels, H, W)``, H and W at least 2.

    Returns:
        Shape ``(batch, 4)``: horizontal, vertical, the diagonal running down left, the one running down right.

    Raises:
        GenerationError: The images have no neighbours.
    """
    means = [difference.square().mean(dim=(1, 2, 3)) for difference in _differences(x)]
    return torch.sqrt(torch.stack(means, dim=1) + EPS)


def v1_tv(x: Tensor) -> Tensor:
    """V1's total variation, to the letter: the sum of four L2 norms over the whole batch.

    Args:
        x: Images, shape ``(batch, channels, H, W)``, H and W at least 2.

    Returns:
        A scalar; V1's loss is ``0.05 * |v1_tv(x) - t|``.

    Raises:
        GenerationError: The images have no neighbours.
    """
    return torch.stack([torch.linalg.vector_norm(difference) for difference in _differences(x)]).sum()


def _differences(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.dim() != 4 or min(x.shape[2:]) < 2:
        raise GenerationError(
            f"images of shape {tuple(x.shape)}: hand (batch, channels, H, W) of at least 2 x 2 pixels"
        )
    return (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., 1:, 1:] - x[..., :-1, :-1],
    )
