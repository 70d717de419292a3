"""Entropy of a Gaussian kernel density estimate over the similarities of pairs, with its backward in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairs import pair_blocks

# Kernel values held at once: 1 MiB in float32, as for similarities.
CHUNK = 1 << 18
# Standard deviations beyond which the kernel stays at exp(-72) = 5e-32: exp is ten times slower where it underflows.
REACH = 12.0


def kernel_entropy(
    units: Tensor, regions: Tensor | None, grid: Tensor, bandwidth: float, offset: float, full: bool = False
) -> Tensor:
    """Differential entropy of each image's similarities under a Gaussian kernel density estimate.

    With the M similarities ``g_m = <u_i, u_j>`` of the comparable pairs i < j::

        f(t) = 1/M sum_m Normal(t; g_m, h)
        H    = - integral f log(f + offset) dt       trapezoid over the grid

    ``full`` takes all N * N entries of every group's matrix, as V1 does: both orders of a pair count, and every token
    with itself, ``g_ii = |u_i|^2``, a constant. Backward, with the trapezoid's weights ``w_k``::

        dH/df_k = - w_k (log(f_k + offset) + f_k / (f_k + offset))
        dH/dg_m = sum_k dH/df_k * Normal(t_k; g_m, h) (t_k - g_m) / (M h^2)

    Similarities and kernel values are computed in blocks and again for the gradient: autograd keeps the tokens and
    ``(batch, K)`` densities. The grid is a constant. First derivatives only.

    Example: tokens (1, 0) and (0, 1), similarity 0, h = 1, grid from -9 to 9 in steps of 0.01: H = 0.5 log(2 pi e) =
    1.419.

    Args:
        units: Tokens of length 1, shape ``(batch, groups, N, d)``, float32 or float64.
        regions: See :class:`psaq_mm.generation.AttentionTokens`.
        grid: Increasing points, shape ``(K,)``, same type.
        bandwidth: Standard deviation ``h`` of the kernel, positive.
        offset: Positive; keeps the logarithm finite where no similarity is near.
        full: Whether all entries count; regions must then be None.

    Returns:
        Entropies in nats, shape ``(batch,)``; negative for narrow distributions.
    """
    return _KernelEntropy.apply(units, regions, grid, bandwidth, offset, full)


class _KernelEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        units: Tensor,
        regions: Tensor | None,
        grid: Tensor,
        bandwidth: float,
        offset: float,
        full: bool,
    ) -> Tensor:
        density, count = units.new_zeros(units.shape[0], grid.shape[0]), 0
        for block in pair_blocks(units, regions):
            density += kernel_sums(block.similarities(units), grid, bandwidth)
            count += len(block.index)
        times = 2 if full else 1
        density, count = times * density, times * count
        if full:
            itself = units.square().sum(-1).flatten(1)  # (batch, groups * N)
            density += kernel_sums(itself, grid, bandwidth)
            count += itself.shape[1]
        density /= count * bandwidth * math.sqrt(2 * math.pi)
        ctx.save_for_backward(units, grid, density)
        ctx.regions, ctx.bandwidth, ctx.offset = regions, bandwidth, offset
        ctx.share = times / count
        return -torch.trapezoid(density * torch.log(density + offset), grid, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        units, grid, density = ctx.saved_tensors
        shifted = density + ctx.offset
        slope = -_trapezoid_weights(grid) * (shifted.log() + density / shifted)  # (batch, K)
        slope *= grads[0].unsqueeze(1) * ctx.share / (ctx.bandwidth**2 * math.sqrt(2 * math.pi))
        result = torch.zeros_like(units)
        for block in pair_blocks(units, ctx.regions):
            samples = block.similarities(units)
            slopes = torch.empty_like(samples)
            for part, kernel, z in _kernels(samples, grid, ctx.bandwidth):
                # (batch, 1, K) @ (batch, K, m) -> (batch, m)
                slopes[:, part] = (slope.unsqueeze(1) @ kernel.mul_(z)).squeeze(1)
            block.add_gradient(slopes, units, result)
        return result, None, None, None, None, None


def kernel_sums(samples: Tensor, grid: Tensor, bandwidth: float) -> Tensor:
    """``sum_m exp(-(t_k - s_m)^2 / (2 h^2))``: samples ``(batch, M)``, grid ``(K,)`` to ``(batch, K)``."""
    total = samples.new_zeros(samples.shape[0], grid.shape[0])
    for _, kernel, _ in _kernels(samples, grid, bandwidth):
        total += kernel.sum(dim=2)  # (batch, K, m) -> (batch, K)
    return total


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
