"""``results.json``: the record that every run leaves, in one schema."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from ..compat import versions
from .files import save_json

SCHEMA = 1
STAGES = ("generate", "calibrate", "distil", "evaluate")


@dataclass
class Row:
    """One arm at one bit width and seed.

    Attributes:
        arm: Name of the arm: ``fp32``, ``psaq``, …
        weight_bits: Bits of weights (32 for ``fp32``).
        activation_bits: Bits of activations.
        seed: The run's seed.
        metrics: The evaluator's own keys and values; empty where evaluation was skipped.
        samples_sha256: Hash of the images used, empty for none.
        seconds: Wall seconds by stage.
        peak_memory_mib: Highest resident memory while the row was made.
    """

    arm: str
    weight_bits: int
    activation_bits: int
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    samples_sha256: str = ""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    peak_memory_mib: int = 0


@dataclass
class Results:
    """The whole record of a run; ``save`` writes it atomically."""

    config: str
    dataset: str
    images: int
    coverage: dict[str, int] = field(default_factory=lambda: {"quantized": 0, "fp": 0})
    rows: list[Row] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the JSON of schema 1; figures that are not finite are left out of ``metrics``."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["metrics"] = {k: round(v, 6) for k, v in row["metrics"].items() if math.isfinite(v)}
            row["seconds"] = {k: round(v, 2) for k, v in row["seconds"].items()}
        head = {"schema": SCHEMA, "config": self.config, "dataset": self.dataset, "images": self.images}
        save_json({**head, "versions": versions(), "coverage": self.coverage, "rows": rows}, path)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Results:
        """The inverse of what ``save`` writes."""
        rows = [Row(**row) for row in data["rows"]]
        return cls(data["config"], data["dataset"], data["images"], data["coverage"], rows)


def main_metrics(rows: list[Row]) -> list[str]:
    """The figures worth a column: each evaluator's headline, in its own order."""
    keys = [key for row in rows for key in row.metrics]
    headline = ("mAP", "mIoU", "aAcc", "top1")
    return list(
        dict.fromkeys(
            key for key in keys if key.rpartition("/")[2].removeprefix("bbox_").removeprefix("segm_") in headline
        )
    )


def results_table(results: Results) -> Table:
    """The rows with their headline figures."""
    columns = main_metrics(results.rows)
    table = Table(title=f"{results.dataset}, {results.images} images")
    for head in ("arm", "bits", "seed", *columns, "seconds", "peak MiB"):
        table.add_column(head, justify="left" if head in ("arm", "bits") else "right")
    for row in results.rows:
        bits = "FP32" if row.arm == "fp32" else f"W{row.weight_bits}A{row.activation_bits}"
        figures = [f"{row.metrics[key]:.3f}" if key in row.metrics else "-" for key in columns]
        table.add_row(
            row.arm, bits, str(row.seed), *figures, f"{sum(row.seconds.values()):.0f}", str(row.peak_memory_mib)
        )
    return table


def reset_peak_memory() -> None:
    """Start a new measurement of the peak, where the system allows it (Linux; otherwise the process's own peak)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib() -> int:
    """Highest resident memory since the last reset, in MiB."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the block's wall seconds to a stage."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - start
