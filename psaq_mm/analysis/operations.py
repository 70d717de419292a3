"""The multiplications of a network's quantized layers, and what their inputs are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization import QuantizedLayer, QuantMatMul


@dataclass(frozen=True)
class InputTensor:
    """An input of a layer, as far as the time of the layer depends on it.

    Attributes:
        shape: Its shape.
        subnormal: The share of :func:`subnormal` numbers, with which CPUs compute more slowly. A softmax has them where
            a mask of -100 is added to its input, as in the shifted windows of Swin.
    """

    shape: tuple[int, ...]
    subnormal: float = 0.0


Inputs = tuple[InputTensor, ...]


def operations(network: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, int]:
    """The multiplications of each quantized layer, in the order in which the layers run first.

    Args:
        network: A quantized network.
        run: Runs the network once, on one image.

    Returns:
        Numbers by the layer's name; layers that do not run are left out.
    """
    found: dict[str, int] = {}

    def count(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        found[name] = found.get(name, 0) + multiplications(module, inputs, output)

    watch(network, run, count)
    return found


def layer_inputs(network: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, list[Inputs]]:
    """What the inputs of each quantized layer are at each call, in the order in which the layers run first.

    Args:
        network: A quantized network.
        run: Runs the network once, on one image.

    Returns:
        By the layer's name one element for each call: its input, or both operands.
    """
    found: dict[str, list[Inputs]] = {}

    def note(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.setdefault(name, []).append(tuple(InputTensor(tuple(one.shape), subnormal(one)) for one in inputs))

    watch(network, run, note)
    return found


def subnormal(x: Tensor) -> float:
    """The share of subnormal numbers among the values of a float tensor, in steps of 0.05.

    Example: of [0, 1e-40, 1, 2] one is below the smallest normal number of float32, 1.2e-38, and not 0: 0.25.
    """
    small = (x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)
    return round(20 * float(small.double().mean())) / 20


def watch(
    network: nn.Module, run: Callable[[nn.Module], object], see: Callable[[str, nn.Module, Any, Tensor], None]
) -> None:
    """Run a network without gradients, and hand each call of a quantized layer or product to a function.

    Args:
        network: A quantized network.
        run: Runs it.
        see: Gets the name of the layer, the layer, its inputs and its output.
    """
    handles = [
        module.register_forward_hook(partial(see, name))
        for name, module in network.named_modules()
        if isinstance(module, (QuantizedLayer, QuantMatMul))
    ]
    try:
        with torch.no_grad():
            run(network)
    finally:
        for handle in handles:
            handle.remove()


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
