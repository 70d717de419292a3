"""The way in for backbones without an adapter: patch tokens from the outputs of their blocks.

Their Linear and Conv2d layers are quantized as those of any model. Products of two activations stay FP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from ...errors import UsageError
from ...generation import AttentionTokens
from ...quantization.convert import OPAQUE
from .declaration import TAPS
from .taps import AttentionTaps, Taps, prefix_tokens

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, *OPAQUE)
# The side to which larger maps are averaged: that of a ViT for images of 512 pixels.
LARGEST = 32
SMALLEST_COUNT = 4
# A map's sides are rounded, those of a few positions by up to a half: log of the ratio to the image's aspect.
FARTHEST = math.log(2)
OTHER_PRODUCTS = "no adapter declares the attention of this backbone: products of two activations stay FP"


def has_attention(model: nn.Module) -> bool:
    """Whether an adapter declares how to read patch tokens of one of the model's modules, and can."""
    return any(_attaches(module) for module in model.modules())


def _attaches(module: nn.Module) -> bool:
    """Whether a module has a tap; some leave out rare forms of their class."""
    tap = TAPS.of(type(module))
    handles = [] if tap is None else tap(module, "", lambda tokens: None, 0)
    for handle in handles:
        handle.remove()
    return bool(handles)


def taps_of(model: nn.Module) -> Taps:
    """Taps on the attention that adapters declare; for a model without such attention, on the outputs of its blocks."""
    if not has_attention(model):
        return BlockTaps(model)
    common = TAPS.of(nn.MultiheadAttention)
    declared = {TAPS.of(type(module)) for module in model.modules() if _attaches(module)}
    # torch's attention is also what networks pool their maps with
    return CheckedTaps(model) if declared == {common} and blocks_of(model) else AttentionTaps(model)


def limitation(model: nn.Module) -> str | None:
    """What is less than full for a backbone without an adapter, in one line; None for others."""
    if has_attention(model):
        return None
    return (
        f"no adapter declares the attention of {type(model).__name__}: its Linear and Conv2d layers are quantized, "
        "products of two activations (if it has any) stay FP, and images are made from the patch similarity of the "
        f"outputs of {len(blocks_of(model))} blocks"
    )


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of a backbone, by name, in the order of registration.

    A block is an element of a Sequential or ModuleList with two or more layers of its own, such as a residual block
    or an encoder layer; of nested ones the innermost count. A network without blocks, such as VGG, gives its
    convolutions.
    """
    found = list(_blocks(model, ""))
    return found or [(name, one) for name, one in model.named_modules() if isinstance(one, nn.Conv2d)]


def _blocks(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    listed = isinstance(module, (nn.Sequential, nn.ModuleList))
    for key, child in module.named_children():
        name = f"{path}.{key}" if path else key
        inner = list(_blocks(child, name))
        if inner:
            yield from inner
        elif (
            listed
            and not isinstance(child, (nn.Sequential, nn.ModuleList, *LAYERS))
            and sum(isinstance(one, LAYERS) for one in child.modules()) > 1
        ):
            yield name, child


def map_tokens(output: Any, images: int, aspect: float, prefix: int = 0) -> AttentionTokens | None:
    """The patch tokens in a module's output; None where it has none.

    Args:
        output: A feature map ``(b, c, h, w)`` or ``(b, h, w, c)``, a sequence ``(b, n, c)``, or a tuple or list whose
            first element is one.
        images: The number of images, b.
        aspect: Their height divided by their width, by which the two kinds of maps are told apart. A tensor whose
            sides are far from it either way is no map.
        prefix: How many tokens precede the patches of a sequence. The last of them is kept, as class token.

    Returns:
        ``(b, 1, n, c)`` with 4 to 1024 patches; larger maps are averaged over areas, longer sequences over neighbours.

    Example: a map ``(2, 64, 80, 80)`` gives ``(2, 1, 1024, 64)``.
    """
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.is_floating_point() or len(output) != images:
        return None
    # a copy, since an activation behind the block may work in place
    output = output.clone()
    if output.dim() == 3:
        return _sequence(output, prefix)
    if output.dim() != 4:
        return None
    _, first, second, third = output.shape

    def misfit(height: int, width: int) -> float:
        return abs(math.log(height / width / aspect))

    if min(misfit(first, second), misfit(second, third)) > FARTHEST:
        return None
    if misfit(first, second) < misfit(second, third):
        output = output.permute(0, 3, 1, 2)
    height, width = output.shape[2:]
    if height * width < SMALLEST_COUNT:
        return None
    if max(height, width) > LARGEST:
        output = adaptive_avg_pool2d(output, (min(height, LARGEST), min(width, LARGEST)))
    return AttentionTokens(output.flatten(2).transpose(1, 2).unsqueeze(1))


def _sequence(output: Tensor, prefix: int) -> AttentionTokens | None:
    """See :func:`map_tokens`."""
    before, patches = output[:, max(prefix - 1, 0) : prefix], output[:, prefix:]
    if patches.shape[1] < SMALLEST_COUNT:
        return None
    if patches.shape[1] > LARGEST**2:
        patches = adaptive_avg_pool1d(patches.transpose(1, 2), LARGEST**2).transpose(1, 2)
    return AttentionTokens(torch.cat([before, patches], 1).unsqueeze(1), has_class_token=prefix > 0)


class BlockTaps(Taps):
    """Collects the outputs of a backbone's blocks as patch tokens, in the order of execution.

    Used like :class:`.taps.AttentionTaps`.

    Args:
        model: The float model or backbone.

    Raises:
        UsageError: It has no block and no convolution; later, if no output is a feature map or a sequence of tokens.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._blocks = blocks_of(model)
        self._called = False
        self._kind = type(model).__name__
        if not self._blocks:
            raise UsageError(
                f"backbone {self._kind} has no feature map, which image generation needs: give images of your own"
            )

    def attach(self) -> Iterator[Any]:
        """See base class."""
        for name, block in self._blocks:
            prefix = prefix_tokens(self._model, name)

            def collect(_: nn.Module, args: tuple, output: Any, name: str = name, prefix: int = prefix) -> None:
                self._called = True
                tokens = map_tokens(output, self.images, self.aspect, prefix)
                if tokens is not None:
                    self.add(replace(tokens, layer=name))

            yield block.register_forward_hook(collect)

    def take(self) -> list[AttentionTokens]:
        """See base class.

        Raises:
            UsageError: Blocks were run, and no output is a feature map or a sequence of tokens.
        """
        found, called, self._called = super().take(), self._called, False
        if called and not found:
            raise UsageError(
                f"no block of {self._kind} has a feature map of at least {SMALLEST_COUNT} positions as its output, "
                "which image generation needs: use larger images, or give images of your own"
            )
        return found


class CheckedTaps(AttentionTaps):
    """Taps on torch's attention, or on the blocks if that attention sees no patches, as when it pools by one query.

    The first tokens decide. Until then, both are collected.

    Args:
        model: The float model or backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._others = BlockTaps(model)
        self._pools: bool | None = None

    def __enter__(self) -> CheckedTaps:
        super().__enter__()
        if self._pools is not False:
            self._others.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._others.__exit__(*error)

    def take(self) -> list[AttentionTokens]:
        """See base class.

        Raises:
            UsageError: See :meth:`BlockTaps.take`.
        """
        found = super().take()
        if self._pools is False:
            return found
        # Only what the layers computed decides; the attention stays tapped, so that outputs stay the same to the bit.
        if any(layer.patches().tokens.shape[2] >= SMALLEST_COUNT for layer in found):
            self._pools = False
            self._others.__exit__()
            return found
        others = self._others.take()
        if found and self._pools is None:
            self._pools = True
            # not by print_log, whose records count as mmengine's and stay off the terminal
            MMLogger.get_current_instance().warning(
                f"the attention of {type(self._model).__name__} has fewer than {SMALLEST_COUNT} patches: images are "
                f"made from the patch similarity of the outputs of {len(self._others._blocks)} blocks"
            )
        return others
