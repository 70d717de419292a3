"""Taps on a float model's attention: patch tokens for the similarity entropy, without touching its forward.

A tap reads the input of an attention's output projection, which is ``attn @ v`` with the heads side by side, by
forward hooks. The model stays as it came; its fast attention kernels stay too. (torch's own attention never calls its
projection: there the tap computes the forward itself, see ``torch_attention``.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...generation import AttentionTokens
from ...quantization.convert import full_name

Sink = Callable[[AttentionTokens], None]
Tap = Callable[[nn.Module, str, Sink, int], list[Any]]
_TAPS: dict[str, Tap] = {}


def register_tap(*attentions: type[nn.Module] | str) -> Callable[[Tap], Tap]:
    """Register how to tap attention classes, given themselves or by their full names.

    The tap gets the module, its name, where to put the tokens, and how many tokens before the patches the backbone
    has (class, distillation and register tokens); it attaches hooks and returns their handles.
    """

    def register(tap: Tap) -> Tap:
        _TAPS.update((one if isinstance(one, str) else full_name(one), tap) for one in attentions)
        return tap

    return register


def tap_of(module: nn.Module) -> Tap | None:
    """The tap registered for the module's class."""
    return _TAPS.get(full_name(type(module)))


def prefix_tokens(model: nn.Module, name: str) -> int:
    """How many tokens stand before the patches in the sequence that the module ``name`` sees.

    An attention cannot know; the innermost module around it that says something about it does.
    """
    parents = [model]
    for part in name.split(".")[:-1]:
        parents.append(getattr(parents[-1], part))
    for parent in reversed(parents):
        # timm's name for it, mmpretrain's, mmseg's (which keeps the parameter where it drops the token)
        for key in ("num_prefix_tokens", "num_extra_tokens", "with_cls_token"):
            if isinstance(getattr(parent, key, None), int):
                return int(getattr(parent, key))
        if isinstance(getattr(parent, "cls_token", None), Tensor):
            return parent.cls_token.shape[1]
    return 0


def head_mean(tokens: Tensor, images: int, heads: int) -> Tensor:
    """The mean over heads: ``(images * groups, n, heads * d) -> (images, groups, n, d)``."""
    _, count, width = tokens.shape
    return tokens.reshape(images, -1, count, heads, width // heads).mean(3)


def sequence_tokens(merged: Tensor, heads: int, name: str, prefix: int) -> AttentionTokens:
    """The tokens of a global attention.

    Args:
        merged: ``(images, n, heads * d)``.
        heads: How many heads.
        name: The layer.
        prefix: How many tokens stand before the patches. Only the last of them is handed on, as class token: the
            entropy knows how to leave out one.
    """
    tokens = head_mean(merged, merged.shape[0], heads)[:, :, max(prefix - 1, 0) :]
    return AttentionTokens(tokens, layer=name, has_class_token=prefix > 0)


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
        self._sites = [
            (tap, module, key, prefix_tokens(model, key))
            for key, module in model.named_modules()
            if (tap := tap_of(module)) is not None
        ]
        if not self._sites:
            names = {f"{name.partition('.')[0]}'s {name.rpartition('.')[2]}" for name in _TAPS}
            supported = ", ".join(sorted(names))
            raise UsageError(
                f"{name} {type(model).__name__} has no supported attention, which image generation needs: "
                f"supported are {supported}"
            )

    def __enter__(self) -> AttentionTaps:
        for tap, module, name, prefix in self._sites:
            self._handles += tap(module, name, self._tokens.append, prefix)
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


def window_regions(
    height: int,
    width: int,
    window: int | tuple[int, int],
    shift: int | tuple[int, int],
    roll_first: bool = False,
) -> Tensor:
    """Which tokens of a (shifted) window may look at each other.

    Args:
        height: Rows of tokens, before padding.
        width: Columns of tokens, before padding.
        window: The window's side, or its height and width.
        shift: How far the grid is rolled up and left; 0 for none.
        roll_first: The map is padded after it was rolled (timm), not before (OpenMMLab): the padding then stands
            in the last windows.

    Returns:
        ``(windows, window area)`` int64: equal numbers within a window see each other, -1 is padding. A 6x6
        map in 4x4 windows without shift: 4 windows, of which the last has 4 real tokens and 12 of -1.
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
