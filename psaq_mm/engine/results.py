"""``results.json``, the record of a run, and its table."""

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
# A metric: a number, or several numbers (for example one a class) in nested lists or dictionaries.
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
        metrics: The evaluator's keys and values (:func:`as_figure`); empty if the evaluation was skipped.
        closeness: How close the model is to the float one on samples
            (:func:`psaq_mm.engine.analysis.closeness.closeness`); empty if it was not compared.
        samples_sha256: Hash of the samples; empty without samples.
        seconds: Wall-clock seconds of each stage.
        peak_memory_mib: Peak resident memory in MiB.
    """

    arm: str
    weight_bits: int
    activation_bits: int
    seed: int
    metrics: dict[str, Figure] = field(default_factory=dict)
    closeness: dict[str, float] = field(default_factory=dict)
    samples_sha256: str = ""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    peak_memory_mib: int = 0

    @property
    def scalars(self) -> dict[str, float]:
        """The metrics that are a single number."""
        return {key: value for key, value in self.metrics.items() if isinstance(value, (int, float))}


@dataclass
class Results:
    """The record of a run.

    Attributes:
        config: Path of the config.
        dataset: Class and folder of the test set.
        images: Number of test images.
        coverage: Numbers of quantized and of float tensors.
        rows: One row for each model.
        verdict: :class:`psaq_mm.engine.analysis.verdict.Verdict` of a run as a dictionary; empty if there is none.
    """

    config: str
    dataset: str
    images: int
    coverage: dict[str, int] = field(default_factory=lambda: {"quantized": 0, "fp": 0})
    rows: list[Row] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the JSON of schema 1 atomically; metrics that are not finite are left out."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            rounded = {key: rounded_figure(value) for key, value in row["metrics"].items()}
            row["metrics"] = {key: value for key, value in rounded.items() if value is not None}
            row["closeness"] = {key: float(f"{value:.6g}") for key, value in row["closeness"].items()}
            row["seconds"] = {k: round(v, 2) for k, v in row["seconds"].items()}
        head = {"schema": SCHEMA, "config": self.config, "dataset": self.dataset, "images": self.images}
        tail = {"verdict": self.verdict} if self.verdict else {}
        save_json({**head, "versions": versions(), "coverage": self.coverage, "rows": rows, **tail}, path)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Results:
        """Read the dictionary that ``save`` writes."""
        rows = [Row(**row) for row in data["rows"]]
        for row in rows:  # the stage's name before version 0.2
            if "distil" in row.seconds:
                row.seconds["distill"] = row.seconds.pop("distil")
        return cls(data["config"], data["dataset"], data["images"], data["coverage"], rows, data.get("verdict", {}))


def as_figure(value: Any) -> Figure:
    """Convert a metric for JSON: numbers to float, tensors and arrays to nested lists, other objects to text.

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
    """A metric rounded to six decimals; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: rounded_figure(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded_figure(one) for one in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def main_metrics(rows: list[Row]) -> list[str]:
    """The keys of the evaluators' main metrics, in the order of the rows."""
    return list(dict.fromkeys(key for row in rows for key in row.scalars if metric_of(key)))


def results_table(results: Results) -> Table:
    """The rows with their main metrics."""
    columns = {key: metric for key in main_metrics(results.rows) if (metric := metric_of(key))}
    table = Table(title=f"{results.dataset}, {results.images} images")
    # Without these prefixes the table fits into 80 columns, also a detector's with its agreement.
    heads = [key.removeprefix("float/").removeprefix("coco/") for key in columns]
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
    """Add the wall-clock seconds of the block to a stage."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - start
