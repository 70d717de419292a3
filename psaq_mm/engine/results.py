"""``results.json``: the record that every run leaves, in one schema."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from rich.table import Table

from ..compat import versions
from ..utils.atomic_files import save_json
from ..utils.metrics import metric_of

SCHEMA = 1
# What an evaluator may give: a number, or several (a class each, say) in nested lists or by name.
Figure = Any
STAGES = ("generate", "calibrate", "distill", "evaluate")


@dataclass
class Row:
    """One arm at one bit width and seed.

    Attributes:
        arm: Name of the arm: ``fp32``, ``psaq``, …
        weight_bits: Bits of weights (32 for ``fp32``).
        activation_bits: Bits of activations.
        seed: The run's seed.
        metrics: The evaluator's own keys and values (:func:`as_figure`); empty where evaluation was skipped.
        samples_sha256: Hash of the images used, empty for none.
        seconds: Wall seconds by stage.
        peak_memory_mib: Highest resident memory while the row was made.
    """

    arm: str
    weight_bits: int
    activation_bits: int
    seed: int
    metrics: dict[str, Figure] = field(default_factory=dict)
    samples_sha256: str = ""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    peak_memory_mib: int = 0

    @property
    def scalars(self) -> dict[str, float]:
        """The metrics that are one number each: what tables can show."""
        return {key: value for key, value in self.metrics.items() if isinstance(value, (int, float))}


@dataclass
class Results:
    """The whole record of a run; ``save`` writes it atomically."""

    config: str
    dataset: str
    images: int
    coverage: dict[str, int] = field(default_factory=lambda: {"quantized": 0, "fp": 0})
    rows: list[Row] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the JSON of schema 1; single figures that are not finite are left out of ``metrics``."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            rounded = {key: rounded_figure(value) for key, value in row["metrics"].items()}
            row["metrics"] = {key: value for key, value in rounded.items() if value is not None}
            row["seconds"] = {k: round(v, 2) for k, v in row["seconds"].items()}
        head = {"schema": SCHEMA, "config": self.config, "dataset": self.dataset, "images": self.images}
        save_json({**head, "versions": versions(), "coverage": self.coverage, "rows": rows}, path)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Results:
        """The inverse of what ``save`` writes."""
        rows = [Row(**row) for row in data["rows"]]
        for row in rows:  # the stage's name before version 0.2
            if "distil" in row.seconds:
                row.seconds["distill"] = row.seconds.pop("distil")
        return cls(data["config"], data["dataset"], data["images"], data["coverage"], rows)


def as_figure(value: Any) -> Figure:
    """An evaluator's value as JSON can hold it: numbers as float, tensors and arrays as nested lists, others as text.

    Example: ``SingleLabelMetric(average=None)`` gives a list with a number a class, ``ConfusionMatrix`` a tensor.
    """
    if isinstance(value, (str, type(None))):
        return value
    if isinstance(value, dict):
        return {str(key): as_figure(one) for key, one in value.items()}
    if hasattr(value, "tolist"):  # tensors and arrays, of one value too
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_figure(one) for one in value]
    return float(value) if isinstance(value, Real) else str(value)


def rounded_figure(value: Figure) -> Figure:
    """A figure with six digits after the point; None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: rounded_figure(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded_figure(one) for one in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def main_metrics(rows: list[Row]) -> list[str]:
    """The figures worth a column: each evaluator's headline, in its own order."""
    return list(dict.fromkeys(key for row in rows for key in row.scalars if metric_of(key)))


def results_table(results: Results) -> Table:
    """The rows with their headline figures."""
    columns = {key: metric for key in main_metrics(results.rows) if (metric := metric_of(key))}
    table = Table(title=f"{results.dataset}, {results.images} images")
    # What compares with the float model needs no prefix to be told apart, and 80 columns have no room for it.
    heads = [key.removeprefix("float/") for key in columns]
    for head in ("arm", "bits", "seed", *heads, "seconds", "peak MiB"):
        table.add_column(head, justify="left" if head in ("arm", "bits") else "right")
    for row in results.rows:
        bits = "FP32" if row.arm == "fp32" else f"W{row.weight_bits}A{row.activation_bits}"
        figures = [m.show(row.scalars[key]) if key in row.scalars else "-" for key, m in columns.items()]
        table.add_row(
            row.arm, bits, str(row.seed), *figures, f"{sum(row.seconds.values()):.0f}", str(row.peak_memory_mib)
        )
    return table


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the block's wall seconds to a stage."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - start
