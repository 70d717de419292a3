"""What generation costs: the entropy against its dense forms, a generator step against the passes it cannot do without.

The dense forms stand here and nowhere else.
"""

from __future__ import annotations

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved, ratio
from psaq_mm.distillation import Competition, ImageGenerator
from psaq_mm.engine.builder import teacher_of
from psaq_mm.generation import AttentionTokens, Discrepancy, ImageOptimizer, PatchSimilarityEntropy, initial_images
from psaq_mm.generation.losses.entropy import V1_BANDWIDTH, V1_OFFSET, V1_POINTS
from psaq_mm.models import AttentionTaps, backbone_of, backbone_outputs, output_function, pixel_units
from psaq_mm.quantization import calibrating, freeze
from psaq_mm.utils.memory import keep_freed_memory, memory_growth

Entropy = Callable[[AttentionTokens], Tensor]
EntropyCall = Callable[[], tuple[Tensor, list[Tensor]]]


def dense_entropy(samples: Tensor) -> Tensor:
    """V1's entropy of each row of similarities with a kernel value for every sample and grid point: ``(batch,)``."""
    low, high = samples.detach().aminmax()
    grid = low + (high - low) * torch.linspace(0, 1, V1_POINTS)
    z = (grid.view(1, -1, 1) - samples.unsqueeze(1)) / V1_BANDWIDTH  # (batch, points, samples)
    density = (torch.exp(-0.5 * z * z) / (V1_BANDWIDTH * math.sqrt(2 * math.pi))).mean(2)
    return -torch.trapezoid(density * torch.log(density + V1_OFFSET), grid, dim=1)


def broadcast_entropy(layer: AttentionTokens) -> Tensor:
    """(a): V1's formulas as its code computes them, every pair of tokens side by side in memory."""
    tokens = layer.without_first().tokens
    return dense_entropy(torch.cosine_similarity(tokens.unsqueeze(3), tokens.unsqueeze(2), dim=-1).flatten(1))


def product_entropy(layer: AttentionTokens) -> Tensor:
    """(b): the obvious improvement, similarities by a product of normalised tokens."""
    units = nn.functional.normalize(layer.without_first().tokens, dim=-1)
    return dense_entropy((units @ units.mT).flatten(1))


def own_entropy(module: PatchSimilarityEntropy, layer: AttentionTokens) -> Tensor:
    """Ours."""
    return module.per_layer([layer])[0]


ENTROPIES: dict[str, Entropy] = {
    "a: broadcast, dense": broadcast_entropy,
    "b: product, dense": product_entropy,
    "ours, v1": partial(own_entropy, PatchSimilarityEntropy("v1")),
    "ours, kde": partial(own_entropy, PatchSimilarityEntropy("kde")),
    "ours, gaussian": partial(own_entropy, PatchSimilarityEntropy("gaussian")),
}
DENSE, PRODUCT, OURS = list(ENTROPIES)[:3]


def value_and_gradients(entropy: Entropy, layers: list[AttentionTokens]) -> tuple[Tensor, list[Tensor]]:
    """The sum over layers, ``(batch,)``, and its gradient on every layer's tokens, one layer after the other."""
    total, gradients = torch.zeros(()), []
    for layer in layers:
        value = entropy(layer)
        gradients.append(torch.autograd.grad(value.sum(), layer.tokens)[0])
        total = total + value.detach()
    return total, gradients


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """``|found - expected| / |expected|`` over all tensors together."""
    error = sum(float((one - other).double().square().sum()) for one, other in zip(found, expected, strict=True))
    return (error / sum(float(one.double().square().sum()) for one in expected)) ** 0.5


def measure(calls: dict[str, EntropyCall]) -> tuple[dict[str, float], dict[str, float]]:
    """MiB that every form needs, where the system tells, and how far ours is from V1's."""
    memory: dict[str, float] = {}
    found = {}
    for name, call in calls.items():
        with memory_growth() as grown:
            found[name] = call()
        memory |= {name: grown[0]} if grown else {}
    (value, gradients), (expected, of_expected) = found[OURS], found[DENSE]
    errors = {
        "entropy value": relative_error([value], [expected]),
        "entropy gradient": relative_error(gradients, of_expected),
    }
    return memory, errors


class GenerationBenchmark:
    """Times a recipe's entropy and its generator steps.

    Args:
        name: What the rows call the model.
        teacher: The float model.
        student: The quantized one; calibrated here, on the start images.
        size: Height and width of the images.
        batch: How many images.
        recipe: A ``dfq`` section, of which ``images.generator`` and ``cycle`` count; the batch is taken whole, whatever
            their micro-batch.
    """

    def __init__(
        self,
        name: str,
        teacher: nn.Module,
        student: nn.Module,
        size: tuple[int, int],
        batch: int,
        recipe: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.size, self.batch = name, f"{size[0]}x{size[1]}", batch
        self.teacher, self.student = teacher, student
        seed = torch.Generator().manual_seed(0)
        units = pixel_units(teacher)
        self.images = units.to_network(initial_images(batch, size, units.lower, units.upper, seed, "fractal"))
        with calibrating(student), torch.no_grad():
            backbone_outputs(student, self.images)
        freeze(student)
        student.requires_grad_(False)
        self.seed = seed
        recipe = recipe or {}
        self.warm_up, self.cycle = recipe.get("generate") or {}, recipe.get("distill") or {}

    def run(self, loss_rounds: int, step_rounds: int) -> dict[str, Any]:
        """Everything.

        Returns:
            ``{"rows", "ratios", "errors"}``; rows are ``{"model", "size", "batch", "what",
            "seconds_median", "memory_mib"}``.
        """
        calls = self.entropies()
        memory, errors = measure(calls)
        # The dense forms as others' code meets them, in a process that knows nothing of us; then as runs of ours would.
        rows, ratios = self.losses(calls, loss_rounds, memory)
        if keep_freed_memory():
            more, factor = self.losses(calls, loss_rounds, {}, ", freed memory kept")
            rows, ratios = rows + more, ratios | factor
        competition = self.cycle.get("competition", 1.0) or 1.0
        for what, against, amp in (
            ("generator step", 0.0, False),
            ("generator step in bfloat16", 0.0, True),
            ("generator step with the student", competition, False),
        ):
            more, factor = self.steps(what, step_rounds, against, amp)
            rows, ratios = rows + more, ratios | factor
        label = f"{self.name} {self.size}: "
        return {
            "rows": rows,
            "ratios": {label + name: round(value, 3) for name, value in ratios.items()},
            "errors": {label + name: float(f"{value:.2g}") for name, value in errors.items()},
        }

    def row(self, what: str, seconds: list[float], memory: float | None) -> dict[str, Any]:
        """A row of the record."""
        return {
            "model": self.name,
            "size": self.size,
            "batch": self.batch,
            "what": what,
            "seconds_median": round(statistics.median(seconds), 5),
            "memory_mib": None if memory is None else round(memory, 1),
        }

    def entropies(self) -> dict[str, EntropyCall]:
        """Every form of the entropy, value and gradient, on the tokens of the start images in all layers."""
        with AttentionTaps(backbone_of(self.teacher)[1]) as taps, torch.no_grad():
            backbone_outputs(self.teacher, self.images)
            layers = taps.take()
        for layer in layers:
            layer.tokens.requires_grad_(True)
        return {name: partial(value_and_gradients, entropy, layers) for name, entropy in ENTROPIES.items()}

    def losses(
        self, calls: dict[str, EntropyCall], rounds: int, memory: dict[str, float], when: str = ""
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Rows and ratios of the entropies, which a suffix tells from those at another time."""
        seconds = interleaved(calls, rounds, warmup=0)
        rows = [self.row(f"entropy, {name}{when}", seconds[name], memory.get(name)) for name in calls]
        ratios = {}
        for name, other in (("a", DENSE), ("b", PRODUCT)):
            ratios[f"entropy, {name} / ours{when}"] = ratio(seconds[other], seconds[OURS])
            if memory:
                ratios[f"entropy memory, {name} / ours"] = memory[other] / max(memory[OURS], 1.0)
        return rows, ratios

    def steps(
        self, what: str, rounds: int, competition: float, amp: bool
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Generator steps of a real run beside bare passes, which are taken between its steps."""
        stage = self.cycle if competition else self.warm_up
        options = {key: value for key, value in (stage.get("generator") or {}).items() if key != "micro_batch"}
        outputs = output_function(stage.get("distill_on", "backbone"), self.teacher)
        distance = Discrepancy(**(stage.get("discrepancy") or {}))
        with torch.no_grad():
            distance.fit(outputs(self.teacher, self.images))
        # Copies, since the taps on the generator's teacher would listen to the bare pass too.
        models = [copy.deepcopy(self.teacher), *([self.student] if competition else [])]
        warn = logging.getLogger(__name__).warning
        generator = ImageGenerator(teacher_of(self.teacher), self.seed, 0, warn, **{**options, "amp": amp})
        times: dict[str, list[float]] = {what: [], "bare": []}
        started = 0.0

        def between(optimizer: ImageOptimizer) -> None:
            nonlocal started
            times[what].append(time.perf_counter() - started)
            start = time.perf_counter()
            for model in models:
                bare_pass(model, self.images)
            times["bare"].append(time.perf_counter() - start)
            started = time.perf_counter()

        started = time.perf_counter()
        # The first step also finds the balance of the competition, and warms up.
        rival = Competition(self.student, outputs, distance, competition) if competition else None
        generator.optimize(self.images, rounds + 1, between, rival)
        times = {name: seconds[1:] for name, seconds in times.items()}
        passes = "both networks' bare passes" if competition else "bare pass"
        rows = [self.row(what, times[what], None)]
        if not amp:  # else the row is there already
            rows.append(self.row(passes, times["bare"], None))
        return rows, {f"{what} / {passes}": ratio(times[what], times["bare"])}


def bare_pass(model: nn.Module, images: Tensor) -> Tensor:
    """What no generator can do without: forward, and the gradient on the images alone."""
    pixels = images.detach().requires_grad_(True)
    loss = torch.stack([level.mean() for level in backbone_outputs(model, pixels)]).sum()
    return torch.autograd.grad(loss, pixels)[0]
