"""Taps on a float model's attention: patch tokens for the similarity entropy, without touching its forward.

A tap reads the input of an attention's output projection, which is ``attn @ v`` with the heads side by side, by
forward hooks. The model stays as it came; its fast attention kernels stay too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..generation import AttentionTokens

Sink = Callable[[AttentionTokens], None]
Tap = Callable[[nn.Module, str, Sink], list[Any]]
_TAPS: dict[type[nn.Module], Tap] = {}


def register_tap(attention: type[nn.Module]) -> Callable[[Tap], Tap]:
    """Register how to tap an attention class; the tap attaches hooks and returns their handles."""

    def register(tap: Tap) -> Tap:
        _TAPS[attention] = tap
        return tap

    return register


def head_mean(tokens: Tensor, images: int, heads: int) -> Tensor:
    """The mean over heads: ``(images * groups, n, heads * d) -> (images, groups, n, d)``."""
    _, count, width = tokens.shape
    return tokens.reshape(images, -1, count, heads, width // heads).mean(3)


class AttentionTaps:
    """Collects the patch tokens of every supported attention in a model, in the order of execution.

    Example::

        with AttentionTaps(model.backbone) as taps:
            model.backbone(images)
            loss = entropy(taps.take())

    Args:
        model: The float model or backbone.
        name: What messages call it.

    Raises:
        UsageError: The model has no attention of a supported class.
    """

    def __init__(self, model: nn.Module, name: str = "backbone") -> None:
        self._tokens: list[AttentionTokens] = []
        self._handles: list[Any] = []
        self._sites = [(key, module) for key, module in model.named_modules() if type(module) in _TAPS]
        if not self._sites:
            supported = ", ".join(sorted(f"{c.__module__.split('.')[0]}'s {c.__name__}" for c in _TAPS))
            raise UsageError(
                f"{name} {type(model).__name__} has no supported attention, which image generation needs: "
                f"supported are {supported}"
            )

    def __enter__(self) -> AttentionTaps:
        for name, module in self._sites:
            self._handles += _TAPS[type(module)](module, name, self._tokens.append)
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._tokens.clear()

    def take(self) -> list[AttentionTokens]:
        """What the forward passes since the last call left here; empties the store."""
        tokens, self._tokens[:] = list(self._tokens), []
        return tokens


def check_image_size(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Make sure that images of a size suit the backbone.

    Raises:
        UsageError: They don't: a hierarchical backbone halves the image, and a size it must pad at every stage
            would make patches of padding.
    """
    stages = len(getattr(backbone, "stages", ()))
    patch = getattr(getattr(getattr(backbone, "patch_embed", None), "projection", None), "stride", (4, 4))
    unit = tuple(int(p) * 2 ** max(stages - 1, 0) for p in patch)
    if any(s < u or s % u for s, u in zip(size, unit, strict=True)):
        near = tuple(max(u, round(s / u) * u) for s, u in zip(size, unit, strict=True))
        raise UsageError(
            f"images of {size[0]}x{size[1]} do not fit {type(backbone).__name__}: height and width must be "
            f"multiples of {unit[0]}, for example {near[0]}x{near[1]}"
        )


def window_regions(height: int, width: int, window: int, shift: int) -> Tensor:
    """Which tokens of a (shifted) window may look at each other.

    Args:
        height: Rows of tokens, before padding.
        width: Columns of tokens, before padding.
        window: The window's side.
        shift: How far the grid is rolled up and left; 0 for none.

    Returns:
        ``(windows, window * window)`` int64: equal numbers within a window see each other, -1 is padding. A 6x6
        map in 4x4 windows without shift: 4 windows, of which the last has 4 real tokens and 12 of -1.
    """
    rows, columns = -(-height // window) * window, -(-width // window) * window
    regions = torch.zeros(rows, columns, dtype=torch.int64)
    regions[height:] = -1
    regions[:, width:] = -1
    if shift:
        regions = torch.roll(regions, (-shift, -shift), dims=(0, 1))

        def bands(length: int) -> Tensor:
            positions = torch.arange(length)
            return (positions >= length - window).long() + (positions >= length - shift).long()

        number = 3 * bands(rows)[:, None] + bands(columns)[None, :]
        regions = torch.where(regions < 0, regions, number)
    # (rows, columns) -> (windows, window * window)
    windows = regions.view(rows // window, window, columns // window, window).transpose(1, 2)
    return windows.reshape(-1, window * window)
