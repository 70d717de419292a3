"""The tokens of an attention layer and which pairs of them are comparable."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import GenerationError

PADDING = -1


@dataclass(frozen=True, eq=False)
class AttentionTokens:
    """The tokens of one attention layer and which pairs of them are comparable.

    Two tokens are comparable if they have the same group and the same region id. In Swin a group is a window. A
    shifted window contains parts of the image that are not adjacent and are masked from each other's attention; each
    part has its own region id.

    Example: one window of four tokens with regions ``[[0, 0, 1, -1]]`` has a single pair, (0, 1).

    Args:
        tokens: ``attn @ v`` averaged over the heads, shape ``(batch, groups, N, d)``, any floating type. Global
            attention is one group.
        regions: Region ids, int64, shape ``(groups, N)``; -1 marks window padding. ``None``: all tokens of a group are
            comparable.
        layer: Name of the layer, for messages and logs.
        has_class_token: Whether token 0 of every group is a class token instead of a patch.

    Raises:
        GenerationError: A shape or a type differs from the above.
    """

    tokens: Tensor
    regions: Tensor | None = None
    layer: str = ""
    has_class_token: bool = False

    def __post_init__(self) -> None:
        shape = tuple(self.tokens.shape)
        if len(shape) != 4 or not self.tokens.is_floating_point():
            raise GenerationError(
                f"tokens of layer {self.layer!r} are {self.tokens.dtype} {shape}: pass floats (batch, groups, N, d)"
            )
        if self.regions is None:
            return
        if self.regions.dtype != torch.int64 or tuple(self.regions.shape) != shape[1:3]:
            raise GenerationError(
                f"regions of layer {self.layer!r} are {self.regions.dtype} {tuple(self.regions.shape)}: "
                f"pass int64 {shape[1:3]}"
            )

    def without_first(self) -> AttentionTokens:
        """The same layer without token 0 of every group."""
        regions = None if self.regions is None else self.regions[:, 1:]
        return replace(self, tokens=self.tokens[:, :, 1:], regions=regions, has_class_token=False)

    def patches(self) -> AttentionTokens:
        """The same layer without its class token, if it has one."""
        return self.without_first() if self.has_class_token else self

    def pair_count(self) -> int:
        """M, the number of comparable pairs in one image."""
        groups, count = self.tokens.shape[1:3]
        if self.regions is None:
            return groups * count * (count - 1) // 2
        return int(pair_mask(count, self.regions, self.regions.device).sum())


def pair_mask(count: int, regions: Tensor | None, device: torch.device, rows: slice = slice(0, None)) -> Tensor:
    """Which entries of the similarity matrices are comparable pairs i < j.

    Args:
        count: N, the side of a matrix.
        regions: Region ids, int64, shape ``(groups, N)``, or None.
        device: Device of the mask.
        rows: The rows r to compute; the columns c start at the first of these rows.

    Returns:
        Boolean, shape ``(groups, r, c)``; without regions ``(1, r, c)``, because all groups have the same pairs.
    """
    position = torch.arange(count, device=device)
    upper = (position[rows, None] < position[None, rows.start :]).unsqueeze(0)
    if regions is None:
        return upper
    regions = regions.to(device)
    row, column = regions[:, rows, None], regions[:, None, rows.start :]
    return upper & (row == column) & (row != PADDING)
