"""Sensitivity: how far the outputs of a network move when one of its tensors alone is quantized."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..generation.losses.distances import DISTANCES
from .probe import Probe, ProbedTensor

# The score that is the sum of both distances.
OUTPUTS = "outputs"
# The outputs of the backbone, and the logits of the whole network; the second list is empty without logits.
Forward = Callable[[nn.Module, Tensor], tuple[list[Tensor], list[Tensor]]]


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of one tensor at one bit width.

    Attributes:
        layer: Name of the layer in the network.
        tensor: ``'weight'``, ``'input'``, or ``'left'`` and ``'right'`` for the operands of an attention product.
        bits: Bits of the tensor, while all others are in floating point.
        parameters: Number of values of a weight; 0 for activations.
        features: :func:`relative_error` of the backbone's outputs.
        logits: The distance of the logits (:class:`Reference`); None without logits.
        scores: Further scores by name (:mod:`psaq_mm.analysis.scores`).
        seconds: Time of the forward passes that gave ``features`` and ``logits``; None if it was not taken.
        scores_seconds: Time of the passes that gave ``scores``, of which each tensor has an equal share; None without
            scores.
    """

    layer: str
    tensor: str
    bits: int
    parameters: int
    features: float
    logits: float | None
    scores: dict[str, float] = field(default_factory=dict)
    # Not compared: the same measurement takes another time.
    seconds: float | None = field(default=None, compare=False)
    scores_seconds: float | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """Layer and tensor."""
        return self.layer, self.tensor


def score_values(rows: Sequence[Sensitivity], name: str) -> list[float | None]:
    """The score of each row.

    The score ``'outputs'`` is the sum of both distances, each divided by its sum over all rows. Layers behind the
    backbone do not move its outputs, and class scores depend on a part of the features; the sum counts both.

    Example: rows with features 3 and 1 and logits 0.2 and 0.8 have the scores 0.75 + 0.2 and 0.25 + 0.8.

    Args:
        rows: The sensitivities.
        name: ``'outputs'``, ``'features'``, ``'logits'`` or a further score.

    Returns:
        None for rows without such a score.
    """
    if name == OUTPUTS:
        parts = [distances_of(rows, one) for one in ("features", "logits")]
        shares = [share for part in parts if None not in part and (share := shares_of(part))]
        return [sum(values) for values in zip(*shares, strict=True)] if shares else [0.0] * len(rows)
    if name in ("features", "logits"):
        return distances_of(rows, name)
    return [row.scores.get(name) for row in rows]


def distances_of(rows: Sequence[Sensitivity], name: str) -> list[float | None]:
    """A distance of each row."""
    return [getattr(row, name) for row in rows]


def shares_of(values: Sequence[float | None]) -> list[float]:
    """Values divided by their sum; empty if they are all zero."""
    total = sum(value or 0.0 for value in values)
    return [(value or 0.0) / total for value in values] if total else []


class Distances(NamedTuple):
    """How far the outputs of a network are from the reference, as means over images.

    Attributes:
        features: :func:`relative_error` of the backbone's outputs.
        logits: :func:`divergence` or :func:`relative_error` of the logits; None without logits.
        agreement: :func:`agreement` of the last logits in per cent; None if they are no class scores.
    """

    features: float
    logits: float | None
    agreement: float | None


class Reference:
    """The outputs of a network in floating point, from which distances are measured.

    Args:
        network: The network.
        batches: Images ``(batch, channels, H, W)`` each.
        forwards: Computes features and logits, one function for each batch.
        classes: Whether a softmax of the logits over dimension 1 gives probabilities. Their distance is then
            :func:`divergence`, else :func:`relative_error`.
        scores: Whether the last logits are class scores; default: ``classes``.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Sequence[Tensor],
        forwards: Sequence[Forward],
        classes: bool,
        scores: bool | None = None,
    ) -> None:
        self.batches, self.forwards, self.classes = batches, forwards, classes
        self.scores = classes if scores is None else scores
        self.outputs = [self.run(network, index) for index in range(len(batches))]

    @torch.no_grad()
    def run(self, network: nn.Module, index: int) -> tuple[list[Tensor], list[Tensor]]:
        """Features and logits of a batch."""
        device = next(network.parameters()).device
        features, logits = self.forwards[index](network, self.batches[index].to(device))
        return [one.detach() for one in features], [one.detach() for one in logits]

    def distances(self, network: nn.Module) -> Distances:
        """The distances of a network's outputs."""
        weights = [len(batch) for batch in self.batches]
        moved = [self.run(network, index) for index in range(len(self.batches))]
        pairs = list(zip(self.outputs, moved, strict=True))

        def mean(values: Iterable[float]) -> float:
            return sum(n * value for n, value in zip(weights, values, strict=True)) / sum(weights)

        features = mean(relative_error(one[0], other[0]) for one, other in pairs)
        if not self.outputs[0][1]:
            return Distances(features, None, None)
        distance = divergence if self.classes else relative_error
        logits = mean(distance(one[1], other[1]) for one, other in pairs)
        return Distances(
            features,
            logits,
            mean(agreement(one[1][-1], other[1][-1]) for one, other in pairs) if self.scores else None,
        )


def relative_error(reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """The mean over the outputs of ``sum (x - y)^2 / sum x^2``, with the reference x and the output y.

    Example: x = [3, 4], y = [3, 3]: 1 / 25 = 0.04. Outputs of zeros are left out.
    """
    shares = []
    for x, y in zip(reference, outputs, strict=True):
        signal = x.double().square().sum()
        if signal > 0:
            shares.append(float((x.double() - y.double()).square().sum() / signal))
    return sum(shares) / len(shares) if shares else 0.0


def divergence(reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """The Kullback-Leibler divergence of the class probabilities in nats, over images, positions and outputs.

    A map with one channel is the logit of a class against the background.
    """
    kl = DISTANCES.get("kl")()
    parts = [float(kl(*(both_classes(one.double()) for one in pair))) for pair in zip(reference, outputs, strict=True)]
    return sum(parts) / len(parts)


def agreement(reference: Tensor, output: Tensor) -> float:
    """The share of positions at which two maps of class scores have the same largest class, in per cent.

    Example: the scores [[1, 2], [3, 0]] and [[0, 1], [1, 4]] agree in the first row: 50.
    """
    first, second = both_classes(reference).argmax(1), both_classes(output).argmax(1)
    return 100 * float((first == second).double().mean())


def both_classes(logits: Tensor) -> Tensor:
    """Logits of all classes: a single channel x becomes ``(x, 0)``, whose softmax is the sigmoid of x."""
    return torch.cat([logits, torch.zeros_like(logits)], 1) if logits.shape[1] == 1 else logits


def sensitivities(probe: Probe, reference: Reference, tensors: Iterable[ProbedTensor]) -> Iterator[Sensitivity]:
    """Quantize one tensor after the other, and measure how far the outputs move.

    Args:
        probe: The network.
        reference: Its outputs in floating point.
        tensors: Which tensors.

    Yields:
        The sensitivity of each tensor, as soon as it is measured.
    """
    for one in tensors:
        start = time.perf_counter()
        with probe.only([one.key]) as network:
            features, logits, _ = reference.distances(network)
        took = time.perf_counter() - start
        yield Sensitivity(one.layer, one.tensor, one.bits, one.parameters, features, logits, seconds=took)
