"""Cosine similarities of a layer's pairs of tokens, a block of them at a time, and their variance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .tokens import pair_mask

# Similarities held at once: 1 MiB in float32, which stays in a CPU's cache and is still a fair load for a GPU.
BLOCK = 1 << 18


@dataclass(frozen=True)
class PairBlock:
    """Some rows of some groups' similarity matrices, right of the first row's diagonal element.

    Attributes:
        groups: Which groups.
        rows: Which tokens are compared with those behind them.
        index: Where the block's pairs stand in its flattened ``(groups, rows, columns)``, int64, shape ``(m,)``.
    """

    groups: slice
    rows: slice
    index: Tensor

    def sides(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the rows and of the columns: ``(batch, g, r, d)`` and ``(batch, g, c, d)``."""
        return units[:, self.groups, self.rows], units[:, self.groups, self.rows.start :]

    def similarities(self, units: Tensor) -> Tensor:
        """The inner products of the block's pairs: ``(batch, m)``."""
        rows, columns = self.sides(units)
        return (rows @ columns.mT).flatten(1).index_select(1, self.index)

    def add_gradient(self, slope: Tensor, units: Tensor, result: Tensor) -> None:
        """Add to ``result``, as large as ``units``, what ``slope``, ``(batch, m)``, on the similarities makes of it."""
        rows, columns = self.sides(units)
        matrix = slope.new_zeros(*rows.shape[:3], columns.shape[2])
        matrix.flatten(1).index_copy_(1, self.index, slope)
        rows_result, columns_result = self.sides(result)
        rows_result += matrix @ columns
        columns_result += matrix.mT @ rows


def pair_blocks(units: Tensor, regions: Tensor | None = None) -> Iterator[PairBlock]:
    """All comparable pairs of a layer, each once, in blocks of at most :data:`BLOCK` similarities (or a single row).

    Only the blocks right of the diagonal are ever multiplied: a little more than half of all products where groups are
    large; small groups come whole, several in a block.

    Args:
        units: Tokens of length 1, shape ``(batch, groups, N, d)``.
        regions: See :class:`psaq_mm.generation.AttentionTokens`.
    """
    batch, groups, count, _ = units.shape
    rows = min(count, max(1, BLOCK // (batch * count)))
    together = max(1, BLOCK // (batch * count * count))
    for first in range(0, groups, together):
        group = slice(first, min(first + together, groups))
        mask = pair_mask(group.stop - first, count, None if regions is None else regions[group], units.device)
        for top in range(0, count, rows):
            index = mask[:, top : top + rows, top:].flatten().nonzero().squeeze(1)
            if len(index):
                yield PairBlock(group, slice(top, top + rows), index)


def similarity_range(units: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest similarity of a batch, tokens with themselves included; no gradient."""
    with torch.no_grad():
        extremes = [block.similarities(units).aminmax() for block in pair_blocks(units)]
        itself = units.square().sum(-1).aminmax()
    low, high = zip(*extremes, itself, strict=True)
    return torch.stack(low).min(), torch.stack(high).max()


def pair_variance(units: Tensor, regions: Tensor | None = None) -> Tensor:
    """Population variance of the similarities of all comparable pairs, with its backward pass in closed form.

    ``d var / d g_m = 2 (g_m - mean) / M``. Similarities are formed in blocks and again for the gradient: autograd keeps
    the tokens and nothing of their pairs. First derivatives only.

    Args:
        units: Tokens of length 1, shape ``(batch, groups, N, d)``.
        regions: See :class:`psaq_mm.generation.AttentionTokens`.

    Returns:
        Shape ``(batch,)``.
    """
    return _PairVariance.apply(units, regions)


class _PairVariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, units: Tensor, regions: Tensor | None) -> Tensor:
        parts = [(len(block.index), *moments(block.similarities(units))) for block in pair_blocks(units, regions)]
        counts, variances, means = zip(*parts, strict=True)
        total = sum(counts)
        share = units.new_tensor(counts).unsqueeze(1) / total  # (blocks, 1)
        mean = (share * torch.stack(means)).sum(0)
        apart = (torch.stack(means) - mean).square()
        ctx.save_for_backward(units, mean)
        ctx.regions, ctx.total = regions, total
        return (share * (torch.stack(variances) + apart)).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        units, mean = ctx.saved_tensors
        factor, result = (2 / ctx.total * grads[0]).unsqueeze(1), torch.zeros_like(units)
        for block in pair_blocks(units, ctx.regions):
            block.add_gradient((block.similarities(units) - mean.unsqueeze(1)) * factor, units, result)
        return result, None


def moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Population variance and mean of each row."""
    return torch.var_mean(samples, dim=1, correction=0)
