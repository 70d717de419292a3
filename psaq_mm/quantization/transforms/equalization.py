"""Equalization of queries and keys: ratios and centers of their channels, before each is quantized with one scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from ..calibration import quantizers
from ..matmul import QuantMatMul
from ..observers import make_observer
from ..spec import QuantSpec

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
    """Set the ratio and the center of each product that has them, from the batches that pass inside the ``with`` block.

    Inside the block nothing is quantized. Run it before :func:`.calibration.calibrating`, since ranges depend on both.
    If the block raises, the ratios are 1 and the centers 0.

    Args:
        model: A quantized model, calibrated or not.
        across_processes: Whether all processes of ``torch.distributed`` pass batches of the same model: each then has
            the ratios and centers of all batches.

    Yields:
        The model.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, QuantMatMul)}
    products = {name: module for name, module in found.items() if module.equalizes}
    observed = {name: Operands() for name in products}
    on = [quantizer for _, quantizer in quantizers(model) if quantizer.enabled]
    handles = []
    for name, module in products.items():
        device = next(module.buffers()).device
        module.ratio = torch.ones(1, device=device) if module.migration else None
        module.center = torch.zeros(1, device=device) if module.centered else None
        handles.append(module.register_forward_pre_hook(observed[name].see))
    try:
        for quantizer in on:
            quantizer.enabled = False
        yield model
    finally:
        for handle in handles:
            handle.remove()
        for quantizer in on:
            quantizer.enabled = True
    for name in reached([name for name, one in observed.items() if one.shape is not None], across_processes):
        product, operands = products[name], observed[name]
        if across_processes:
            operands.all_reduce()
        if product.migration:
            product.ratio = operands.ratio(product.migration, product.centered)
        if product.centered:
            product.center = operands.center()


class Operands:
    """What is measured of the channels of one product's operands.

    Attributes:
        shape: The shape of the channels, ``(k,)`` or ``(heads, k)``; None before the first batch.
    """

    def __init__(self) -> None:
        self.shape: torch.Size | None = None
        self.left, self.right = make_observer(CHANNELS), make_observer(CHANNELS)
        # Of the right operand, in float64: the number of vectors, and their sum.
        self.count, self.sum = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def see(self, _: nn.Module, operands: tuple[Tensor, Tensor]) -> None:
        """Add a batch; a forward pre-hook of the product."""
        left = by_channel(operands[0])[1]
        self.shape, right = by_channel(operands[1].mT)
        self.left.update(left)
        self.right.update(right)
        vectors = right.flatten(0, -2).double()
        self.sum, self.count = self.sum.to(right.device) + vectors.sum(0), self.count.to(right.device) + len(vectors)

    def all_reduce(self) -> None:
        """Merge with what the other processes measured."""
        self.left.all_reduce()
        self.right.all_reduce()
        distributed.all_reduce(self.sum)
        distributed.all_reduce(self.count)

    def center(self) -> Tensor:
        """The mean of each channel of the right operand."""
        assert self.shape is not None
        return (self.sum / self.count).float().reshape(self.shape)

    def ratio(self, migration: float, centered: bool) -> Tensor:
        """See :func:`channel_ratio`; of the centered right operand if ``centered``."""
        assert self.shape is not None
        shift = self.center().flatten() if centered else torch.zeros(1, device=self.sum.device)
        (low, high), (right_low, right_high) = self.left.range(), self.right.range()
        left, right = torch.maximum(-low, high), torch.maximum(shift - right_low, right_high - shift)
        return channel_ratio(left, right, migration).reshape(self.shape)


def by_channel(operand: Tensor) -> tuple[torch.Size, Tensor]:
    """The shape of an operand's channels, and the operand with all of them in its last dimension.

    Args:
        operand: ``(..., heads, tokens, channels)`` with channels of each head, or ``(batch, tokens, channels)``.
    """
    operand = operand.detach()
    if operand.dim() < 4:
        return operand.shape[-1:], operand
    return torch.Size((operand.shape[-3], operand.shape[-1])), operand.transpose(-3, -2).flatten(-2)


def reached(names: list[str], across_processes: bool) -> list[str]:
    """Those of the products that a batch reached in every process."""
    if not across_processes:
        return names
    gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(gathered, names)
    # In one order everywhere, since the collective calls that follow have to meet.
    return sorted(set.intersection(*(set(one) for one in gathered)))
