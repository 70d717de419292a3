"""Which layers calibration reaches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...quantization.convert import OPAQUE, factory_of, is_quantized, join
from .levels import OutputFunction


def convertible(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that conversion replaces, with their names: layers and attention, but nothing inside these."""
    if is_quantized(module) or isinstance(module, OPAQUE) and factory_of(module) is None:
        return
    if factory_of(module) is not None:
        yield name, module
        return
    for key, child in module._modules.items():
        if child is not None:
            yield from convertible(child, join(name, key))


@torch.no_grad()
def unreached(model: nn.Module, forward: OutputFunction, images: Tensor) -> list[str]:
    """The names of the modules that conversion would replace, but that a forward pass does not call.

    Such are layers that only training uses. Calibration could not give them scales.

    Args:
        model: A float model in eval mode.
        forward: The function with which it is calibrated.
        images: Any images of a size that the model takes.
    """
    called: set[nn.Module] = set()
    found = list(convertible(model))
    handles = [module.register_forward_pre_hook(lambda one, _: called.add(one)) for _, module in found]
    try:
        forward(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, module in found if module not in called]
