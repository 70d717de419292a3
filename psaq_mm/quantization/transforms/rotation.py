"""Rotation of channels by Hadamard matrices, which spreads outliers of single channels over many.

Ashkboos et al., *QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs*, NeurIPS 2024.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

# Multiplications per value. On vision transformers larger blocks gained nothing.
LARGEST = 128


def rotated(x: Tensor, axis: int) -> Tensor:
    """``x H`` along one dimension, with an orthogonal block-diagonal matrix H.

    The diagonal consists of equal Hadamard matrices of size b divided by ``sqrt(b)``. b is the largest power of two
    that divides the number of channels, at most 128; nothing changes for an odd number. The sum of products over the
    channels remains ``(x H)(H^T y) = x y``. Channel c of the result is a sum over b channels with the signs of row c,
    so no channel is much larger than the others, and their values are closer to a normal distribution.

    Example: the channels ``[8, 0, 0, 0]`` become ``[4, 4, 4, 4]``.

    Args:
        x: Any shape.
        axis: The dimension of the channels, may be negative.

    Returns:
        Tensor of the shape and type of ``x``.
    """
    return _multiplied(x, axis, transpose=False)


def rotated_back(x: Tensor, axis: int) -> Tensor:
    """``x H^T``, the inverse of :func:`rotated`.

    Args:
        x: Any shape.
        axis: The dimension of the channels, may be negative.
    """
    return _multiplied(x, axis, transpose=True)


def _multiplied(x: Tensor, axis: int, transpose: bool) -> Tensor:
    matrix = hadamard(block_size(x.shape[axis])).to(x)
    if len(matrix) == 1:
        return x
    channels_last = x.movedim(axis, -1)
    blocks = channels_last.reshape(*channels_last.shape[:-1], -1, len(matrix))
    return (blocks @ (matrix.T if transpose else matrix)).reshape(channels_last.shape).movedim(-1, axis)


def block_size(channels: int) -> int:
    """The largest power of two that divides the number of channels, at most :data:`LARGEST`."""
    return min(channels & -channels, LARGEST)


@cache
def hadamard(size: int) -> Tensor:
    """The orthogonal Hadamard matrix, with entries ``+-1 / sqrt(size)``.

    Sylvester's construction: ``H_1 = [1]``, ``H_2n = [[H_n, H_n], [H_n, -H_n]]``, divided by ``sqrt(size)`` at the end.

    Args:
        size: A power of two.
    """
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)
