"""Equalization of queries and keys: the ranges of their channels, before both are quantized with one scale each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from .calibration import quantizers
from .layers import QuantMatMul
from .observers import Observer, make_observer
from .spec import QuantSpec

# Outliers of single tokens should not decide about a channel.
CHANNELS = QuantSpec(granularity="per_channel", axis=-1, observer="percentile", percentile=0.05)


def channel_ratio(left: Tensor, right: Tensor, migration: float) -> Tensor:
    """The factors r by which channels of queries are multiplied, and by which those of keys are divided.

    ::

        r_c = (k_c / q_c) ^ migration,        q'_c = q_c r_c,   k'_c = k_c / r_c,   sum_c q'_c k'_c = sum_c q_c k_c

    At 0.5 both have the range ``sqrt(q_c k_c)`` in each channel; at 1 they have exchanged their ranges. It is the
    migration of Xiao et al., *SmoothQuant*, ICML 2023, between two activations instead of an activation and a weight.

    Example: queries with the ranges ``[1, 1]`` and keys with ``[1, 16]``. One scale of 4 bits for such keys has steps
    of 2 for a channel of range 1. With ``migration=0.5``, r is ``[1, 4]``: both have the ranges ``[1, 4]``.

    Args:
        left: The largest magnitude of each channel of the queries, any shape.
        right: That of the keys, of the same shape.
        migration: 0 to 1.

    Returns:
        The factors, of the same shape; 1 where a channel is 0 throughout.
    """
    usable = (left > 0) & (right > 0)
    return torch.where(usable, right / left, 1.0) ** migration


@contextmanager
def equalizing(model: nn.Module, across_processes: bool = False) -> Iterator[nn.Module]:
    """Set the ratio of each product that migrates, from the batches that pass inside the ``with`` block.

    Inside the block nothing is quantized. Run it before :func:`.calibration.calibrating`, since ranges depend on the
    ratios. If the block raises, the ratios are 1.

    Args:
        model: A quantized model, calibrated or not.
        across_processes: Whether all processes of ``torch.distributed`` pass batches of the same model: each then has
            the ratios of all batches.

    Yields:
        The model.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, QuantMatMul)}
    products = {name: module for name, module in found.items() if module.migration > 0}
    observers = {name: (make_observer(CHANNELS), make_observer(CHANNELS)) for name in products}
    shapes: dict[str, torch.Size] = {}
    on = [quantizer for _, quantizer in quantizers(model) if quantizer.enabled]
    handles = []
    for name, module in products.items():
        module.ratio = torch.ones(1, device=next(module.buffers()).device)

        def see(_: nn.Module, operands: tuple[Tensor, Tensor], name: str = name) -> None:
            for observer, operand in zip(observers[name], (operands[0], operands[1].mT), strict=True):
                shapes[name], channels = by_channel(operand)
                observer.update(channels)

        handles.append(module.register_forward_pre_hook(see))
    try:
        for quantizer in on:
            quantizer.enabled = False
        yield model
    finally:
        for handle in handles:
            handle.remove()
        for quantizer in on:
            quantizer.enabled = True
    for name in reached(shapes, across_processes):
        left, right = (magnitude(observer, across_processes) for observer in observers[name])
        products[name].ratio = channel_ratio(left, right, products[name].migration).reshape(shapes[name])


def by_channel(operand: Tensor) -> tuple[torch.Size, Tensor]:
    """The shape of an operand's channels, and the operand with all of them in its last dimension.

    Args:
        operand: ``(..., heads, tokens, channels)`` with channels of each head, or ``(batch, tokens, channels)``.
    """
    operand = operand.detach()
    if operand.dim() < 4:
        return operand.shape[-1:], operand
    return torch.Size((operand.shape[-3], operand.shape[-1])), operand.transpose(-3, -2).flatten(-2)


def reached(shapes: dict[str, torch.Size], across_processes: bool) -> list[str]:
    """The products that a batch reached, in every process."""
    names = list(shapes)
    if not across_processes:
        return names
    gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(gathered, names)
    # In one order everywhere, since the collective calls that follow have to meet.
    return sorted(set.intersection(*(set(one) for one in gathered)))


def magnitude(observer: Observer, across_processes: bool) -> Tensor:
    """The largest magnitude of each channel that an observer saw."""
    if across_processes:
        observer.all_reduce()
    low, high = observer.range()
    return torch.maximum(-low, high)
