"""The record of an analysis."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ...analysis.budget import Allocation, Budget, allocate
from ...analysis.probe import probed_tensors
from ...analysis.sensitivity import OUTPUTS, Sensitivity, score_values
from ...errors import PSAQError, UsageError
from ...quantization.spec import MAX_BITS, MIN_BITS
from ...utils.atomic_files import save_json, save_with

SCHEMA = 1
# Of a CSV file; the further scores stand between them.
COLUMNS = ("layer", "tensor", "bits", "parameters", "operations", "features", "logits")
SECONDS = ("seconds", "scores_seconds")


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
        score: str = OUTPUTS,
        widths: Sequence[int] | None = None,
        engine: str | None = None,
    ) -> Allocation:
        """The bits with the least sum of sensitivities within a budget (:func:`psaq_mm.analysis.budget.allocate`).

        Tensors whose score is zero at every width, such as those of a mask head, which the class scores do not depend
        on, are left out: the recipe decides their bits, and the budget does not count them.

        Args:
            budget: The budget, or text such as ``'size=0.125'``.
            score: See :func:`psaq_mm.analysis.sensitivity.score_values`.
            widths: The bits to choose from; None for all that were measured.
            engine: Whose times a budget of latency counts; None if only one was measured.

        Raises:
            UsageError: The budget is not valid, or too small for the measured widths, or no times were measured.
        """
        limit = budget if isinstance(budget, Budget) else Budget.parse(str(budget))
        rows = [row for row in self.rows if widths is None or row.bits in widths]
        if limit.kind == "latency":  # which leaves fast layers in floating point instead
            return allocate(rows, limit, self.operations, score, self.times(engine))
        seen = {row.key for row, value in zip(rows, score_values(rows, score), strict=True) if value != 0}
        return allocate([row for row in rows if row.key in seen], limit, self.operations, score)

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
        score: str = OUTPUTS,
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

    def to_csv(self, path: str | Path) -> None:
        """Write the rows as CSV atomically, with a column for each further score; figures that are missing are empty.

        Args:
            path: Path of the file.

        Raises:
            PSAQError: It cannot be written.
        """
        self.sort()
        save_with(self.write_csv, Path(path))

    def write_csv(self, path: Path) -> None:
        """Write the rows as CSV in place (:meth:`to_csv`)."""
        scores = list(dict.fromkeys(name for row in self.rows for name in row.scores))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *scores, *SECONDS], extrasaction="ignore")
            writer.writeheader()
            for row in self.rows:
                writer.writerow({**asdict(row), **row.scores, "operations": self.operations.get(row.layer)})

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
