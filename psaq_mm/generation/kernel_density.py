"""Entropy of a Gaussian kernel density estimate, with its backward pass in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Kernel values held at once: 1 MiB in float32, which stays in a CPU's cache and is still a fair load for a GPU.
CHUNK = 1 << 18
# Standard deviations beyond which the kernel stays at exp(-72) = 5e-32: exp is ten times slower where it underflows.
REACH = 12.0


def kernel_entropy(samples: Tensor, grid: Tensor, bandwidth: float, offset: float) -> Tensor:
    """Differential entropy of each row of samples under a Gaussian kernel density estimate.

    ::

        f(t) = 1/M sum_m Normal(t; s_m, h)
        H    = - integral f log(f + offset) dt       trapezoid over the grid

    Backward, with the trapezoid's weights ``w_k``::

        dH/df_k = - w_k (log(f_k + offset) + f_k / (f_k + offset))
        dH/ds_m = sum_k dH/df_k * Normal(t_k; s_m, h) (t_k - s_m) / (M h^2)

    The kernel is computed again, in chunks, so that autograd keeps the samples and ``(batch, K)`` densities instead of
    ``(batch, M, K)``. The grid is a constant. First derivatives only.

    Example: one sample at 0, h = 1, grid from -9 to 9 in steps of 0.01: H = 0.5 log(2 pi e) = 1.419.

    Args:
        samples: Shape ``(batch, M)``, float32 or float64.
        grid: Increasing points, shape ``(K,)``, same type.
        bandwidth: Standard deviation ``h`` of the kernel, positive.
        offset: Positive; keeps the logarithm finite where no sample is near.

    Returns:
        Entropies in nats, shape ``(batch,)``; negative for narrow distributions.
    """
    return _KernelEntropy.apply(samples, grid, bandwidth, offset)


class _KernelEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, grid: Tensor, bandwidth: float, offset: float) -> Tensor:
        density = samples.new_zeros(samples.shape[0], grid.shape[0])
        for _, kernel, _ in _kernels(samples, grid, bandwidth):
            density += kernel.sum(dim=2)  # (batch, K, m) -> (batch, K)
        density /= samples.shape[1] * bandwidth * math.sqrt(2 * math.pi)
        ctx.save_for_backward(samples, grid, density)
        ctx.bandwidth, ctx.offset = bandwidth, offset
        return -torch.trapezoid(density * torch.log(density + offset), grid, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        samples, grid, density = ctx.saved_tensors
        shifted = density + ctx.offset
        slope = -_trapezoid_weights(grid) * (shifted.log() + density / shifted)  # (batch, K)
        slope *= grads[0].unsqueeze(1) / (samples.shape[1] * ctx.bandwidth**2 * math.sqrt(2 * math.pi))
        result = torch.empty_like(samples)
        for part, kernel, z in _kernels(samples, grid, ctx.bandwidth):
            # (batch, 1, K) @ (batch, K, m) -> (batch, m)
            result[:, part] = (slope.unsqueeze(1) @ kernel.mul_(z)).squeeze(1)
        return result, None, None, None


def _kernels(samples: Tensor, grid: Tensor, bandwidth: float) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Chunks of the samples with ``exp(-z^2 / 2)`` and ``z = (t - s) / h``, both ``(batch, K, m)``."""
    scaled, points = samples / bandwidth, (grid / bandwidth).unsqueeze(1)
    size = max(1, CHUNK // (samples.shape[0] * grid.shape[0]))
    for start in range(0, samples.shape[1], size):
        part = slice(start, start + size)
        z = (points - scaled[:, part].unsqueeze(1)).clamp_(-REACH, REACH)
        yield part, z.square().mul_(-0.5).exp_(), z


def _trapezoid_weights(grid: Tensor) -> Tensor:
    """Weights ``w`` with ``sum_k w_k y_k`` the trapezoid of y, shape ``(K,)``."""
    half = grid.diff() / 2
    weights = torch.zeros_like(grid)
    weights[:-1] += half
    weights[1:] += half
    return weights
