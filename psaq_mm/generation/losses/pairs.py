"""Cosine similarities of a layer's pairs of tokens, a block of them at a time, and their variance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..tokens import pair_mask

# Similarities held at once: 1 MiB in float32, which stays in a CPU's cache and is still a fair load for a GPU.
BLOCK = 1 << 18


@dataclass(frozen=True)
class PairBlock:
    """Some rows of some groups' similarity matrices, from the first row's diagonal element on.

    Attributes:
        groups: Which groups.
        rows: Which tokens are compared with those behind them.
        index: Where the block's pairs stand in its flattened ``(g, r, c)``, int64, shape ``(m,)``.
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

    def add_gradient(self, slopes: Tensor, units: Tensor, result: Tensor) -> None:
        """Add to ``result``, shaped as ``units``, what slopes ``(batch, m)`` on the similarities make of the tokens."""
        rows, columns = self.sides(units)
        matrix = slopes.new_zeros(*rows.shape[:3], columns.shape[2])
        matrix.flatten(1).index_copy_(1, self.index, slopes)
        rows_result, columns_result = self.sides(result)
        rows_result += matrix @ columns
        columns_result += matrix.mT @ rows


def pair_blocks(units: Tensor, regions: Tensor | None = None) -> Iterator[PairBlock]:
    """All comparable pairs of a layer, each once, in blocks of at most :data:`BLOCK` similarities (or a single row).

    Only what is right of the diagonal is multiplied: a little more than half of all products where groups are large;
    small groups come whole, several in a block.

    Args:
        units: Tokens of length 1, shape ``(batch, groups, N, d)``.
        regions: See :class:`psaq_mm.generation.AttentionTokens`.
    """
    batch, groups, count, _ = units.shape
    height = min(count, max(1, BLOCK // (batch * count)))
    together = max(1, BLOCK // (batch * count * count))
    for top in range(0, count, height):
        rows, index = slice(top, min(top + height, count)), None
        for first in range(0, groups, together):
            group = slice(first, min(first + together, groups))
            size = group.stop - group.start
            if regions is not None or index is None or size < together:  # else the groups before had the same pairs
                mask = pair_mask(count, None if regions is None else regions[group], units.device, rows)
                index = mask.expand(size, -1, -1).flatten().nonzero().squeeze(1)
            if len(index):
                yield PairBlock(group, rows, index)


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
        counts, means, variances = [], [], []
        for block in pair_blocks(units, regions):
            values = block.similarities(units)
            # torch.var_mean is ten times slower.
            mean = values.mean(1)
            variances.append((values - mean.unsqueeze(1)).square().mean(1))
            means.append(mean)
            counts.append(len(block.index))
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
