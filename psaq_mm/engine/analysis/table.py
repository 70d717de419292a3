"""The record of an analysis, and the measurement of its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...analysis.budget import Allocation, Budget, allocate
from ...analysis.gradients import gradient_scores
from ...analysis.operations import operations
from ...analysis.probe import Probe, ProbedTensor, probed_tensors
from ...analysis.sensitivity import Forward, Reference, Sensitivity, sensitivities
from ...errors import PSAQError, UsageError
from ...models import backbone_outputs
from ...quantization.spec import MAX_BITS, MIN_BITS
from ...utils.atomic_files import save_json

SCHEMA = 1


@dataclass
class SensitivityTable:
    """The record of an analysis.

    Attributes:
        config: Path of the config.
        identity: Hash of what the rows depend on; rows of another analysis are not mixed with them.
        source: ``'generated'`` or ``'real'`` images.
        count: Number of images.
        size: Their height and width.
        seed: Seed of the run.
        bits: The recipe's bits of weights and activations, whose settings all widths have.
        logits: What the logits' distance is: ``'divergence'``, ``'error'``, or empty without logits.
        recipe_bits: Bits of each layer's tensors in the recipe.
        operations: Multiplications of each layer on one image, in the order of execution.
        rows: One row for each tensor and width.
        latency: Seconds of each layer on one image, by engine and layer: ``'32'`` in floating point, ``'8'`` in
            integers (:class:`.latency.LayerTimes`). Empty where they were not measured.
    """

    config: str
    identity: str
    source: str
    count: int
    size: tuple[int, int]
    seed: int
    bits: tuple[int, int]
    logits: str = ""
    recipe_bits: dict[str, dict[str, int]] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    rows: list[Sensitivity] = field(default_factory=list)
    latency: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def allocate(
        self,
        budget: str | Budget,
        score: str = "features",
        widths: Sequence[int] | None = None,
        engine: str | None = None,
    ) -> Allocation:
        """The bits with the least sum of sensitivities within a budget (:func:`psaq_mm.analysis.budget.allocate`).

        Args:
            budget: The budget, or text such as ``'size=0.125'``.
            score: ``'features'``, whose order on generated images is nearest to that on real ones; ``'logits'``, or a
                further score that was measured.
            widths: The bits to choose from; None for all that were measured.
            engine: Whose times a budget of latency counts; None if only one was measured.

        Raises:
            UsageError: The budget is not valid, or too small for the measured widths, or no times were measured.
        """
        limit = Budget.parse(budget) if isinstance(budget, str) else budget
        rows = [row for row in self.rows if widths is None or row.bits in widths]
        times = self.times(engine) if limit.kind == "latency" else None
        return allocate(rows, limit, self.operations, score, times)

    def times(self, engine: str | None = None) -> dict[str, dict[str, float]]:
        """Seconds of each layer in an engine.

        Args:
            engine: Its name; None if only one was measured.

        Raises:
            UsageError: It was not measured, or several were.
        """
        if engine is None and len(self.latency) > 1:
            raise UsageError(f"times were measured in {' and '.join(sorted(self.latency))}: name the engine")
        found = next(iter(self.latency), None) if engine is None else engine
        if found not in self.latency:
            raise UsageError(f"the layers have no times in {engine or 'an engine'}: analyze the model with engine=...")
        return self.latency[found]

    def overrides(
        self,
        budget: str | Budget,
        score: str = "features",
        widths: Sequence[int] | None = None,
        engine: str | None = None,
    ) -> list[dict[str, Any]]:
        """The same bits as overrides of a recipe: ``options={'dfq.quantization.overrides': table.overrides(...)}``."""
        return self.allocate(budget, score, widths, engine).overrides(self.recipe_bits)

    def sort(self) -> None:
        """Bring the rows into the order of execution."""
        places = {name: place for place, name in enumerate(self.operations)}
        self.rows.sort(
            key=lambda row: (places.get(row.layer, len(places)), row.tensor != "weight", row.tensor, -row.bits)
        )

    def save(self, path: Path) -> None:
        """Write the JSON of schema 1 atomically."""
        self.sort()
        save_json({"schema": SCHEMA, **asdict(self)}, path)

    @classmethod
    def load(cls, path: Path) -> SensitivityTable:
        """Read a file that :meth:`save` wrote.

        Raises:
            PSAQError: It cannot be read.
        """
        try:
            data = json.loads(path.read_text())
            if data.pop("schema") != SCHEMA:
                raise KeyError
            rows = [Sensitivity(**row) for row in data.pop("rows")]
            return cls(**{**data, "size": tuple(data["size"]), "bits": tuple(data["bits"])}, rows=rows)
        except (OSError, json.JSONDecodeError, KeyError, TypeError):
            raise PSAQError(f"{path} cannot be read: delete it and start the analysis anew") from None


def missing_tensors(table: SensitivityTable, network: nn.Module, tensors: str = "all") -> list[ProbedTensor]:
    """The tensors of a network that have no row at their bits yet.

    Args:
        table: The rows so far.
        network: A quantized network.
        tensors: ``'all'``, ``'weights'`` or ``'activations'``.
    """
    have = {(*row.key, row.bits) for row in table.rows}
    wanted = [one for one in probed_tensors(network) if tensors in ("all", kind_of(one.tensor))]
    return [one for one in wanted if (*one.key, one.bits) not in have]


def measured_rows(
    table: SensitivityTable,
    network: nn.Module,
    calibrate: Callable[[], object],
    batches: Sequence[Tensor],
    forwards: Sequence[Forward],
    classes: bool,
    missing: Sequence[ProbedTensor],
    scores: Sequence[str] = (),
) -> Iterator[Sensitivity]:
    """Calibrate a network, and add a row for each missing tensor to the table.

    Args:
        table: Receives the rows, and the operations of each layer.
        network: A quantized network, not calibrated.
        calibrate: Calibrates it.
        batches: Images.
        forwards: Computes features and logits, one function for each batch.
        classes: Whether the logits are class scores (:class:`psaq_mm.analysis.sensitivity.Reference`).
        missing: The tensors.
        scores: Names of further scores, from gradients of the features.

    Yields:
        Each row, after it was added.
    """
    probe = Probe(network, calibrate)
    reference = Reference(network, batches, forwards, classes)
    table.logits = ("divergence" if classes else "error") if reference.outputs[0][1] else ""
    device = next(network.parameters()).device
    if not table.operations:
        table.operations = operations(network, lambda model: forwards[0](model, batches[0][:1].to(device)))
    further = gradient_scores(probe, batches, backbone_outputs, scores) if scores else {}
    for row in sensitivities(probe, reference, missing):
        row.scores.update(further.get(row.key, {}))
        table.rows.append(row)
        yield row


def recipe_bits(network: nn.Module) -> dict[str, dict[str, int]]:
    """The bits of each layer's tensors in a quantized network."""
    found: dict[str, dict[str, int]] = {}
    for one in probed_tensors(network):
        found.setdefault(one.layer, {})[one.tensor] = one.bits
    return found


def checked_widths(widths: int | Sequence[int]) -> list[int]:
    """The different widths, largest first; one number is one width.

    Raises:
        UsageError: A width is not valid, or there is none.
    """
    widths = [widths] if isinstance(widths, int) else widths
    if not widths or any(width not in range(MIN_BITS, MAX_BITS + 1) for width in widths):
        raise UsageError(f"widths {list(widths)} are not valid: give bits from {MIN_BITS} to {MAX_BITS}")
    return sorted(set(widths), reverse=True)


def at_width(quantization: dict[str, Any], width: int) -> dict[str, Any]:
    """The keys of a policy with these bits, for first and last layers too unless they stay in floating point."""
    changed = {**quantization, "weight_bits": width, "activation_bits": width}
    return changed | {key: None for key in ("first_layer", "last_layers") if isinstance(changed.get(key), int)}


def kind_of(tensor: str) -> str:
    """``'weights'`` or ``'activations'``."""
    return "weights" if tensor == "weight" else "activations"
