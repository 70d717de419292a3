"""The multiplications of a network's quantized layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization import QuantizedLayer, QuantMatMul


def operations(network: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, int]:
    """The multiplications of each quantized layer, in the order in which the layers run first.

    Args:
        network: A quantized network.
        run: Runs the network once, on one image.

    Returns:
        Numbers by the layer's name; layers that do not run are left out.
    """
    found: dict[str, int] = {}

    def count(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = found.get(name, 0) + multiplications(module, inputs, output)

        return hook

    handles = [
        module.register_forward_hook(count(name))
        for name, module in network.named_modules()
        if isinstance(module, (QuantizedLayer, QuantMatMul))
    ]
    try:
        with torch.no_grad():
            run(network)
    finally:
        for handle in handles:
            handle.remove()
    return found


def multiplications(module: nn.Module, inputs: Any, output: Tensor) -> int:
    """The multiplications of one call.

    Example: a Linear from 3 to 5 channels on 10 tokens has 150.

    Args:
        module: A quantized layer or product.
        inputs: What it was called with.
        output: Its result.
    """
    if isinstance(module, QuantMatMul):
        return output.numel() * int(inputs[0].shape[-1])
    if isinstance(module, nn.ConvTranspose2d):
        return inputs[0].numel() * math.prod(module.weight.shape[1:])
    weight: Any = module.weight  # (out, what each output is a sum over)
    return output.numel() * math.prod(weight.shape[1:])
