"""Cosine similarities of a layer's comparable pairs, computed block by block, and their variance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..tokens import pair_mask

# Similarities per block: 1 MiB in float32, which fits into a CPU's cache and still occupies a GPU.
BLOCK = 1 << 18


@dataclass(frozen=True)
class PairBlock:
    """A block of the similarity matrices: rows of some groups, columns from the first row's diagonal element on.

    Attributes:
        groups: The groups g.
        rows: The rows r; the columns c start at the first row.
        index: Positions of the comparable pairs in the flattened block ``(g, r, c)``, int64, shape ``(m,)``.
    """

    groups: slice
    rows: slice
    index: Tensor

    def sides(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the rows and of the columns, shapes ``(batch, g, r, d)`` and ``(batch, g, c, d)``."""
        return units[:, self.groups, self.rows], units[:, self.groups, self.rows.start :]

    def similarities(self, units: Tensor) -> Tensor:
        """The inner products of the block's comparable pairs, shape ``(batch, m)``."""
        rows, columns = self.sides(units)
        return (rows @ columns.mT).flatten(1).index_select(1, self.index)

    def add_gradient(self, slopes: Tensor, units: Tensor, result: Tensor) -> None:
        """Adds the gradient on the tokens to ``result``.

        Args:
            slopes: Gradient on the block's similarities, shape ``(batch, m)``.
            units: Tokens of length 1, shape ``(batch, groups, N, d)``.
            result: Gradient on all tokens, the same shape; changed in place.
        """
        rows, columns = self.sides(units)
        matrix = slopes.new_zeros(*rows.shape[:3], columns.shape[2])
        matrix.flatten(1).index_copy_(1, self.index, slopes)
        rows_result, columns_result = self.sides(result)
        rows_result += matrix @ columns
        columns_result += matrix.mT @ rows


def pair_blocks(units: Tensor, regions: Tensor | None = None) -> Iterator[PairBlock]:
    """Yields all comparable pairs of a layer, each once, in blocks of at most :data:`BLOCK` similarities or one row.

    A large group is split into rows, and every block starts at the diagonal, so that little more than half of all
    products are computed. Several small groups share a block.

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
            if (
                regions is not None or index is None or size < together
            ):  # otherwise the previous block has the same pairs
                mask = pair_mask(count, None if regions is None else regions[group], units.device, rows)
                index = mask.expand(size, -1, -1).flatten().nonzero().squeeze(1)
            if len(index):
                yield PairBlock(group, rows, index)


def pair_variance(units: Tensor, regions: Tensor | None = None) -> Tensor:
    """Population variance of the similarities of all comparable pairs, with a backward pass in closed form.

    With the M similarities ``g_m`` of one image, ``d var / d g_m = 2 (g_m - mean) / M``. The similarities are computed
    in blocks, and again for the gradient, so that autograd keeps the tokens only. There are no second derivatives.

    Example: the tokens (1, 0), (0, 1), (1, 0) have the similarities 0, 1, 0 and the variance 2/9.

    Args:
        units: Tokens of length 1, shape ``(batch, groups, N, d)``.
        regions: See :class:`psaq_mm.generation.AttentionTokens`.

    Returns:
        Shape ``(batch,)``.
    """
    variance: Tensor = _PairVariance.apply(units, regions)
    return variance


class _PairVariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, units: Tensor, regions: Tensor | None) -> Tensor:
        counts, means, variances = [], [], []
        for block in pair_blocks(units, regions):
            values = block.similarities(units)
            # torch.var_mean takes ten times as long.
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
