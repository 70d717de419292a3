"""The entropy of a Gaussian kernel density estimate, with a backward pass in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairs import pair_blocks

# Nodes per bandwidth. No similarity is further than h / 32 from a node, so the first omitted term of the Taylor series
# is at most 1.4 / 32^3 / 6 = 7e-6 of the kernel's height.
NODES = 16
# Standard deviations at which the kernel is clamped to exp(-72) = 5e-32, because exp is ten times slower where it
# underflows.
REACH = 12.0


def kernel_entropy(
    units: Tensor, regions: Tensor | None, grid: Tensor | int, bandwidth: float, offset: float
) -> Tensor:
    """Differential entropy of each image's similarities under a Gaussian kernel density estimate.

    With the M similarities ``g_m = <u_i, u_j>`` of the comparable pairs i < j::

        f(t) = 1/M sum_m Normal(t; g_m, h)
        H    = - integral f log(f + offset) dt       trapezoidal rule over the grid

    With a number of points instead of a grid the entropy is V1's: all N * N entries of every group's matrix count,
    both orders of a pair and every token with itself (``g_ii = |u_i|^2``, a constant), and the grid has that number of
    evenly spaced points between the smallest and the largest similarity of the batch. The gradient, with the weights
    ``w_k`` of the trapezoidal rule::

        dH/df_k = - w_k (log(f_k + offset) + f_k / (f_k + offset))
        dH/dg_m = sum_k dH/df_k * Normal(t_k; g_m, h) (t_k - g_m) / (M h^2)

    To avoid M * K kernel values, the kernel is expanded in a Taylor series around the nearest node of a fine grid with
    ``NODES`` nodes per bandwidth: pairs are summed up at the nodes, and their gradient is interpolated from there. With
    ``phi(z) = exp(-z^2 / 2)``, Hermite polynomials ``He_p``, ``z_kj = (t_k - node_j) / h`` and a pair's distance
    ``r = (g - node) / h`` from its node::

        phi((t_k - g) / h) = sum_p r^p / p! He_p(z_kj) phi(z_kj)            p = 0, 1, 2; error below 7e-6

    Similarities are computed in blocks, and again for the gradient, so that autograd keeps the tokens and the
    ``(batch, K)`` densities only. The grid is a constant. There are no second derivatives. On GPUs the order of the
    sums at nodes varies, so the last bits differ between runs.

    Example: tokens (1, 0) and (0, 1), similarity 0, h = 1, grid from -9 to 9 in steps of 0.01: H = 0.5 log(2 pi e) =
    1.419.

    Args:
        units: Tokens of length 1, shape ``(batch, groups, N, d)``, float32 or float64.
        regions: See :class:`psaq_mm.generation.AttentionTokens`; V1 ignores them.
        grid: Increasing points, shape ``(K,)``, same type; or the number of points of V1's grid.
        bandwidth: Standard deviation ``h`` of the kernel, positive.
        offset: Positive; keeps the logarithm finite where the density is 0.

    Returns:
        Entropies in nats, shape ``(batch,)``; negative for narrow distributions.
    """
    entropies: Tensor = _KernelEntropy.apply(units, regions, grid, bandwidth, offset)
    return entropies


class _KernelEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, units: Tensor, regions: Tensor | None, grid: Tensor | int, bandwidth: float, offset: float
    ) -> Tensor:
        nodes = Nodes(bandwidth, units)
        sums, count = nodes.zeros(), 0
        extremes = []
        for block in pair_blocks(units, regions):
            values = block.similarities(units)
            nodes.add(sums, values)
            count += len(block.index)
            extremes.append(values.aminmax())
        times = 1
        if isinstance(grid, int):
            itself = units.square().sum(-1).flatten(1)  # (batch, groups * N)
            sums, count, times = 2 * sums, 2 * count + itself.shape[1], 2
            nodes.add(sums, itself)
            low, high = (torch.stack(ends) for ends in zip(*extremes, itself.aminmax(), strict=True))
            steps = torch.linspace(0, 1, grid, dtype=units.dtype, device=units.device)
            grid = low.min() + (high.max() - low.min()) * steps
        # (batch, J) @ (J, K) for every p
        density = sum(moment @ kernel.mT for moment, kernel in zip(sums, nodes.kernels(grid, 0), strict=True))
        density = density / (count * bandwidth * math.sqrt(2 * math.pi))
        ctx.save_for_backward(units, grid, density)
        ctx.regions, ctx.bandwidth, ctx.offset, ctx.share = regions, bandwidth, offset, times / count
        return -torch.trapezoid(density * torch.log(density + offset), grid, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        units, grid, density = ctx.saved_tensors
        shifted = density + ctx.offset
        slope = -_trapezoid_weights(grid) * (shifted.log() + density / shifted)  # (batch, K)
        slope *= grads[0].unsqueeze(1) * ctx.share / (ctx.bandwidth**2 * math.sqrt(2 * math.pi))
        nodes, result = Nodes(ctx.bandwidth, units), torch.zeros_like(units)
        tables = [slope @ kernel for kernel in nodes.kernels(grid, 1)]  # (batch, K) @ (K, J)
        for block in pair_blocks(units, ctx.regions):
            block.add_gradient(nodes.look_up(tables, block.similarities(units)), units, result)
        return result, None, None, None, None


class Nodes:
    """The fine grid over [-1, 1] at whose nodes similarities are summed up.

    Args:
        bandwidth: h.
        like: A tensor of the batch size, type and device of the sums.
    """

    def __init__(self, bandwidth: float, like: Tensor) -> None:
        self.like, self.per_unit = like, NODES / bandwidth
        # One more on each side, because rounding yields similarities slightly above 1.
        self.half = math.ceil(self.per_unit) + 1

    def zeros(self) -> Tensor:
        """Sums of 0, shape ``(3, batch, J)``."""
        return self.like.new_zeros(3, len(self.like), 2 * self.half + 1)

    def nearest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Index of each value's nearest node and the distance from it in units of nodes, both ``(batch, m)``."""
        position = values * self.per_unit
        node = position.round()
        # Via int32, which CPUs convert ten times faster. NaN yields an arbitrary index but remains in the distance.
        return (node.int() + self.half).clamp_(0, 2 * self.half).long(), position - node

    def add(self, sums: Tensor, values: Tensor) -> None:
        """Adds 1, r and r^2 of values ``(batch, m)`` to the ``sums`` of :meth:`zeros` at their nodes."""
        index, r = self.nearest(values)
        for total, powers in zip(sums, (r.new_ones(()).expand_as(r), r, r * r), strict=True):
            total.scatter_add_(1, index, powers)

    def look_up(self, tables: list[Tensor], values: Tensor) -> Tensor:
        """``sum_p r^p table_p`` at the nodes of values ``(batch, m)``; the tables have shape ``(batch, J)``."""
        index, r = self.nearest(values)
        first, second, third = (table.gather(1, index) for table in tables)
        return third.mul_(r).add_(second).mul_(r).add_(first)

    def kernels(self, grid: Tensor, derivative: int) -> list[Tensor]:
        """The Taylor coefficients of the n-th derivative of the kernel by the similarity, in units of bandwidths.

        Args:
            grid: ``(K,)``.
            derivative: n, 0 for the kernel itself or 1.

        Returns:
            ``He_{n+p}(z) phi(z) / (p! NODES^p)``, ``z = (t_k - node_j) / h``, for p = 0, 1, 2: ``(K, J)`` each.
        """
        nodes = torch.arange(-self.half, self.half + 1, dtype=grid.dtype, device=grid.device)
        z = ((grid.unsqueeze(1) * self.per_unit - nodes) / NODES).clamp_(-REACH, REACH)
        phi, square = torch.exp(-z.square() / 2), z.square()
        hermite = [phi, z * phi, (square - 1) * phi, z * (square - 3) * phi]
        return [hermite[derivative], hermite[derivative + 1] / NODES, hermite[derivative + 2] / (2 * NODES**2)]


def _trapezoid_weights(grid: Tensor) -> Tensor:
    """Weights ``w`` of the trapezoidal rule ``sum_k w_k y_k``, shape ``(K,)``."""
    half = grid.diff() / 2
    weights = torch.zeros_like(grid)
    weights[:-1] += half
    weights[1:] += half
    return weights
