"""Scores of all tensors of a network at once, from a few backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..quantization import Quantizer
from .probe import Probe
from .scores import SCORES

Key = tuple[str, str]


def gradient_scores(
    probe: Probe,
    batches: Sequence[Tensor],
    outputs: Callable[[nn.Module, Tensor], Sequence[Tensor]],
    names: Iterable[str],
    vectors: int = 8,
    seed: int = 0,
) -> dict[Key, dict[str, float]]:
    """The scores (:mod:`.scores`) of every quantized tensor, as means over batches and random vectors.

    With the outputs ``y_l`` of a batch, l = 1 ... L, and random signs ``s``, a backward pass starts from::

        v f = sum_l s_l y_l / (|y_l| sqrt(L))

    Args:
        probe: A calibrated network.
        batches: Images ``(batch, channels, H, W)`` each; the graph of a whole batch must fit into memory.
        outputs: Computes the outputs whose relative error is meant.
        names: Names of registered scores.
        vectors: Backward passes for each batch.
        seed: Seed of the random vectors.

    Returns:
        Scores by layer and tensor, and by name; 0 for tensors that the outputs do not depend on.

    Raises:
        UsageError: A score is unknown.
    """
    scores = {name: SCORES.get(name) for name in names}
    generator = torch.Generator().manual_seed(seed)
    sums: dict[Key, dict[str, Tensor]] = {}
    device = next(probe.network.parameters()).device

    def add(key: Key, gradient: Tensor, error: Tensor) -> None:
        found = sums.setdefault(key, {})
        for name, score in scores.items():
            found[name] = found.get(name, torch.zeros((), dtype=torch.float64)) + score.value(gradient, error).cpu()

    weights = {
        key: layer.weight
        for name, layer in probe.layers.items()
        if (key := (name, "weight")) in probe.quantizers and isinstance(layer.weight, nn.Parameter)
    }
    errors = {key: probe.weight_error(key[0]) for key in weights}
    required = [(weight, weight.requires_grad) for weight in weights.values()]
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        for batch in batches:
            images = batch.to(device).requires_grad_(True)
            with activation_gradients(probe, add):
                found = [one for one in outputs(probe.network, images) if one.requires_grad and bool(one.any())]
                for last in reversed(range(vectors)):
                    start = sum(
                        (one * signs_like(one, generator)).sum() / (one.detach().norm() * len(found) ** 0.5)
                        for one in found
                    )
                    gradients = torch.autograd.grad(
                        start, [images, *weights.values()], retain_graph=last > 0, allow_unused=True
                    )
                    for key, gradient in zip(weights, gradients[1:], strict=True):
                        if gradient is not None:
                            add(key, gradient, errors[key])
    finally:
        for weight, before in required:
            weight.requires_grad_(before)
    count = vectors * len(batches)
    return {key: {name: float(sums.get(key, {}).get(name, 0.0)) / count for name in scores} for key in probe.quantizers}


def signs_like(output: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs of the shape of a tensor."""
    return torch.randint(2, output.shape, generator=generator).to(output.device, output.dtype) * 2 - 1


@contextmanager
def activation_gradients(probe: Probe, add: Callable[[Key, Tensor, Tensor], None]) -> Iterator[None]:
    """Report the gradient of every quantized activation, with its error by the quantizer, in each backward pass."""

    def watch(key: Key) -> Callable[[Quantizer, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(quantizer: Quantizer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not output.requires_grad:
                return None
            quantizer.enabled = True
            with torch.no_grad():
                # not by a call, which would run this hook again
                error = quantizer.forward(output.detach()) - output.detach()
            quantizer.enabled = False
            # A view: others may use the same tensor, and their share of the gradient is not this layer's.
            own = output.view_as(output)
            own.register_hook(lambda gradient: add(key, gradient, error))
            return own

        return hook

    handles = [one.register_forward_hook(watch(key)) for key, one in probe.quantizers.items() if key[1] != "weight"]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
