"""What window attentions share: which tokens of a window attend to each other, their tap, and their quantized form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....generation import AttentionTokens
from ..declaration import Sink
from ..decomposed import DecomposedAttention
from ..taps import head_mean


def window_regions(
    height: int,
    width: int,
    window: int | tuple[int, int],
    shift: int | tuple[int, int],
    roll_first: bool = False,
) -> Tensor:
    """Which tokens of a (shifted) window attend to each other.

    Args:
        height: Rows of tokens, before padding.
        width: Columns of tokens, before padding.
        window: The window's side, or its height and width.
        shift: How far the grid is rolled up and left; 0 for none.
        roll_first: Whether the map is padded after the roll (timm) and not before it (OpenMMLab): the padding is then
            in the last windows.

    Returns:
        ``(windows, window area)`` int64: tokens of a window with equal numbers attend to each other, -1 is padding. A
        6x6 map in 4x4 windows without shift: 4 windows, of which the last has 4 real tokens and 12 of -1.
    """
    sides, shifts = pair(window), pair(shift)
    rows, columns = (-(-length // side) * side for length, side in zip((height, width), sides, strict=True))
    regions = torch.zeros(rows, columns, dtype=torch.int64)
    regions[height:] = -1
    regions[:, width:] = -1
    if any(shifts):
        if not roll_first:
            regions = torch.roll(regions, (-shifts[0], -shifts[1]), dims=(0, 1))

        def bands(length: int, side: int, shift: int) -> Tensor:
            positions = torch.arange(length)
            return (positions >= length - side).long() + (positions >= length - shift).long()

        number = 3 * bands(rows, sides[0], shifts[0])[:, None] + bands(columns, sides[1], shifts[1])[None, :]
        regions = torch.where(regions < 0, regions, number)
    # (rows, columns) -> (windows, window area)
    windows = regions.view(rows // sides[0], sides[0], columns // sides[1], sides[1]).transpose(1, 2)
    return windows.reshape(-1, sides[0] * sides[1])


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """A number twice, or the two numbers."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def tap_windows(
    outer: nn.Module,
    attention: Any,
    regions_of: Callable[..., tuple[int, Tensor, torch.device]],
    name: str,
    sink: Sink,
) -> list[Any]:
    """Tap a window attention: tokens by window, with padding and masked pairs marked.

    Args:
        outer: The module around it, whose input is still the whole map.
        attention: The attention itself, whose input is windows.
        regions_of: Gives the number of images, the regions and their device from the arguments of ``outer``.
        name: The layer.
        sink: Where the tokens go.
    """
    shape: dict[str, Any] = {}

    def remember(_: nn.Module, args: tuple, kwargs: dict) -> None:
        images, regions, device = regions_of(*args, **kwargs)
        shape["images"] = images
        shape["regions"] = regions.to(device) if bool((regions != 0).any()) else None

    def collect(_: nn.Module, args: tuple) -> None:
        tokens = head_mean(args[0], shape["images"], attention.num_heads)
        sink(AttentionTokens(tokens, shape["regions"], layer=name))

    return [
        outer.register_forward_pre_hook(remember, with_kwargs=True),
        attention.proj.register_forward_pre_hook(collect),
    ]


def tap_shift_window_msa(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap ``ShiftWindowMSA`` of an OpenMMLab library, around an attention of V1 or V2."""

    def regions_of(query: Tensor, hw_shape: tuple[int, int]) -> tuple[int, Tensor, torch.device]:
        shift = module.shift_size
        # mmpretrain does not shift where one window spans the map
        if not getattr(module, "pad_small_map", True) and min(hw_shape) == module.window_size:
            shift = 0
        return query.shape[0], window_regions(*hw_shape, module.window_size, shift), query.device

    return tap_windows(module, module.w_msa, regions_of, name, sink)


def tap_timm_block(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the window attention of a block of timm's V1 or V2; the block itself shifts and pads."""

    def regions_of(x: Tensor) -> tuple[int, Tensor, torch.device]:
        regions = window_regions(x.shape[1], x.shape[2], module.window_size, module.shift_size, roll_first=True)
        return x.shape[0], regions, x.device

    return tap_windows(module, module.attn, regions_of, f"{name}.attn", sink)


class QuantWindows(DecomposedAttention, ABC):
    """Window attention in decomposed form: V1 and V2 differ in projection, scores and position bias."""

    relative_position_index: Tensor
    window_size: tuple[int, int]
    proj: nn.Module
    proj_drop: nn.Module

    def adopt_buffers(self, module: Any, *keys: str) -> None:
        """Take over constant tensors; each is in the state dict exactly if it is in the float module's."""
        for key in keys:
            # timm leaves them out of its checkpoints
            self.register_buffer(key, getattr(module, key), persistent=key in module.state_dict())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Window attention.

        Args:
            x: ``(windows * images, n, channels)``.
            mask: ``(windows, n, n)``, 0 where a pair may attend to each other and -100 where not, or None.

        Returns:
            The shape of ``x``.
        """
        q, k, v = self.split(self.project(x))
        merged = self.attend(q, k, v, self.position_bias(), None if mask is None else mask[:, None])
        return self.proj_drop(self.proj(merged))

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """q, k and v side by side, ``(windows * images, n, 3 * channels)``."""

    @abstractmethod
    def position_bias(self) -> Tensor:
        """The relative position bias, ``(1, heads, n, n)``."""

    def bias_of(self, table: Tensor) -> Tensor:
        """The bias of every pair of tokens, ``(1, heads, n, n)``, from one row for each relative position."""
        count = self.window_size[0] * self.window_size[1]
        bias = table[self.relative_position_index.view(-1)].view(count, count, -1)
        return bias.permute(2, 0, 1).unsqueeze(0)
