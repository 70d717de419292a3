"""Tokens of length 1, and the variance of their cosine similarities from a Gram matrix of the channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NORM_EPS = 1e-8


def unit_tokens(tokens: Tensor) -> Tensor:
    """Scales tokens to length 1, so that inner products are cosine similarities.

    A token shorter than 1e-8 becomes zero, with similarity 0 to every other token, and gets no gradient. Division by
    ``max(|z|, 1e-8)`` would give it a gradient of order 1e8.

    Example: (3, 4) becomes (0.6, 0.8).

    Args:
        tokens: Shape ``(..., d)``; float16 and bfloat16 are converted to float32.

    Returns:
        Same shape, float32 or float64.
    """
    if tokens.dtype not in (torch.float32, torch.float64):
        tokens = tokens.float()
    units: Tensor = _UnitTokens.apply(tokens)
    return units


class _UnitTokens(torch.autograd.Function):
    """``u = x / |x|`` and ``dL/dx = (dL/du - u <u, dL/du>) / |x|``."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
        inverse = torch.where(norm > NORM_EPS, 1 / norm, 0)
        units = tokens * inverse
        ctx.save_for_backward(units, inverse)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        units, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(units, grads[0]).unsqueeze(-1)
        gradient: Tensor = (grads[0] - units * along) * inverse
        return gradient


def gram_variance(units: Tensor) -> Tensor:
    """Population variance of the similarities of all pairs i < j within the groups, in O(N d^2) time.

    Equal to :func:`pair_variance` without regions, but no N x N matrix is formed; faster for more tokens than channels.

    In one group let ``u_i = m + w_i`` with the mean ``m``, so that ``sum_i w_i = 0``, and ``p_i = <m, w_i>``. Then
    ``g_ij - |m|^2 = p_i + p_j + <w_i, w_j>``, and all cross terms vanish in the sum over i and j. With the d x d Gram
    matrix ``C = sum_i w_i w_i^T`` and the diagonal elements ``c_i = 2 p_i + |w_i|^2``, which are subtracted::

        S1 = sum_{i<j} (g_ij - |m|^2)   = - sum_i c_i / 2
        S2 = sum_{i<j} (g_ij - |m|^2)^2 = (2 N sum_i p_i^2 + |C|_F^2 - sum_i c_i^2) / 2

    Without the shift by ``|m|^2``, cancellation in float32 destroys the variance of nearly equal tokens. The groups are
    combined by ``var = mean of the variances + variance of the means``.

    Example: the tokens (1, 0), (0, 1), (1, 0) have the similarities 0, 1, 0 and the variance 2/9.

    Args:
        units: Tokens of length 1, shape ``(batch, groups, N, d)``, N at least 2.

    Returns:
        Shape ``(batch,)``.
    """
    count = units.shape[2]
    pairs = count * (count - 1) / 2
    mean = units.mean(dim=2, keepdim=True)  # (batch, groups, 1, d)
    centred = units - mean
    p = (centred * mean).sum(-1)  # (batch, groups, N)
    diagonal = 2 * p + centred.square().sum(-1)  # (batch, groups, N)
    gram = centred.mT @ centred  # (batch, groups, d, d)
    s1 = -diagonal.sum(-1) / 2  # (batch, groups)
    s2 = (2 * count * p.square().sum(-1) + gram.square().sum((-2, -1)) - diagonal.square().sum(-1)) / 2
    means = mean.square().sum((-2, -1)) + s1 / pairs
    variances = s2 / pairs - (s1 / pairs).square()
    return variances.mean(dim=1) + means.var(dim=1, correction=0)  # (batch, groups) -> (batch,)
