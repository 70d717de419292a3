"""The documentation's tables, from the records of ``tools/ablate.py``: pure functions from results to Markdown."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from psaq_mm.engine.arms import ARMS
from psaq_mm.engine.results import SCHEMA
from psaq_mm.errors import PSAQError
from psaq_mm.utils.metrics import Metric, metric_of
from psaq_mm.visualization.record_tables import markdown

# Generated images, with training and without.
MAIN_ARMS = ("psaq", "psaq-calib")


def read_results(path: Path) -> dict[str, Any]:
    """A record of schema 1.

    Raises:
        PSAQError: It is missing, no JSON or of another schema.
    """
    if not path.is_file():
        raise PSAQError(f"there is no {path}: make it with tools/ablate.py, whose ablation.json it is")
    try:
        results = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise PSAQError(f"{path} is no JSON ({error}): make it anew with tools/ablate.py") from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise PSAQError(f"{path} is not of schema {SCHEMA}: make it anew with tools/ablate.py")
    return results


def headline(results: dict[str, Any]) -> dict[str, Metric]:
    """The evaluator's keys that have a column, in the evaluator's order."""
    keys = dict.fromkeys(
        key for row in results["rows"] for key, figure in row["metrics"].items() if isinstance(figure, (int, float))
    )
    return {key: metric for key in keys if (metric := metric_of(key))}


def bit_widths(results: dict[str, Any]) -> list[tuple[int, int]]:
    """Weight and activation bits of the quantized rows, in their order."""
    rows = (row for row in results["rows"] if row["arm"] != "fp32")
    return list(dict.fromkeys((row["weight_bits"], row["activation_bits"]) for row in rows))


def arms(results: dict[str, Any]) -> list[str]:
    """The arms that have rows: the float model, the known ones in their own order, then others."""
    present = dict.fromkeys(row["arm"] for row in results["rows"])
    known = [arm for arm in ("fp32", *ARMS) if arm in present]
    return known + [arm for arm in present if arm not in known]


def rows_of(results: dict[str, Any], arm: str, bits: tuple[int, int]) -> list[dict[str, Any]]:
    """The rows of an arm, one a seed. The float model's is the same for all bit widths."""
    rows = [row for row in results["rows"] if row["arm"] == arm]
    return [row for row in rows if arm == "fp32" or (row["weight_bits"], row["activation_bits"]) == bits]


def values(results: dict[str, Any], arm: str, bits: tuple[int, int], key: str) -> list[float]:
    """One figure of an arm, a value for each seed."""
    figures = (row["metrics"].get(key) for row in rows_of(results, arm, bits))
    return [figure for figure in figures if isinstance(figure, (int, float))]


def mean_and_error(figures: list[float], metric: Metric) -> str:
    """Mean and its standard error ``s / sqrt(n)``, s with n - 1 in the denominator; one figure has no error.

    Example: APs of 0.70, 0.71 and 0.72 give ``0.7100 ± 0.0058``.
    """
    if not figures:
        return "-"
    mean = statistics.fmean(figures)
    if len(figures) < 2:
        return metric.show(mean)
    error = statistics.stdev(figures) / len(figures) ** 0.5
    return f"{metric.show(mean, mean=True)} ± {metric.show(error, mean=True)}"


def seeds(results: dict[str, Any], arm: str) -> str:
    """How many seeds an arm has: one number, or one for each bit width where they differ, as in ``3/3/1``."""
    counts = [sum(bool(row["metrics"]) for row in rows_of(results, arm, bits)) for bits in bit_widths(results)]
    return str(counts[0]) if len(set(counts)) == 1 else "/".join(map(str, counts))


def columns(results: dict[str, Any]) -> list[tuple[tuple[int, int], str, Metric]]:
    """Bit width, key and metric of every column."""
    return [(bits, key, metric) for bits in bit_widths(results) for key, metric in headline(results).items()]


def heads(results: dict[str, Any]) -> list[str]:
    """The columns' heads, such as ``W4A8 box AP``."""
    return [f"W{w}A{a} {metric.title}" for (w, a), _, metric in columns(results)]


def main_table(results: dict[str, Any]) -> str:
    """One row an arm, mean and standard error over seeds in one column for each bit width and figure."""
    rows = []
    for arm in arms(results):
        cells = [mean_and_error(values(results, arm, bits, key), metric) for bits, key, metric in columns(results)]
        rows.append([f"`{arm}`", seeds(results, arm), *cells])
    return markdown(["arm", "seeds", *heads(results)], rows)


def main_arm(results: dict[str, Any]) -> str:
    """What the recipe of a record runs, training or calibration alone: of both, the arm with more rows.

    Of equally many, training counts.
    """
    return max(MAIN_ARMS, key=lambda arm: sum(row["arm"] == arm for row in results["rows"]))


def difference_table(results: dict[str, Any]) -> str:
    """The main arm's mean minus each other arm's, in the figure's own unit; empty where the arm has no rows."""
    arm = main_arm(results)
    if arm not in arms(results):
        return ""
    rows = []
    for rival in arms(results):
        if rival != arm:
            cells = []
            for bits, key, metric in columns(results):
                ours, theirs = values(results, arm, bits, key), values(results, rival, bits, key)
                both = bool(ours and theirs)
                gap = statistics.fmean(ours) - statistics.fmean(theirs) if both else 0.0
                cells.append(metric.show(gap, mean=True, sign="+") if both else "-")
            rows.append([f"`{rival}`", *cells])
    return markdown([f"`{arm}` minus", *heads(results)], rows)


def caption(results: dict[str, Any]) -> str:
    """The config, the number of images, the versions, and the units of figures that are not self-explanatory."""
    counted, used, metrics = results["coverage"], results["versions"], headline(results).values()
    # The libraries of the evaluators; a record may come from an environment without the others.
    hosts = dict.fromkeys(metric.host for metric in metrics)
    stack = ", ".join(f"{name} {used[name]}" for name in ("torch", *hosts) if name in used)
    units: dict[str, list[str]] = {}
    for metric in metrics:
        if unit := metric.unit_beside(metrics):
            units.setdefault(unit, []).append(metric.title)
    measured = (
        f"`{results['config']}`, {results['images']} evaluation images, {counted['quantized']} tensors quantized and "
        f"{counted['fp']} left FP"
    )
    notes = [f"{' and '.join(titles)} {unit}" for unit, titles in units.items()]
    return "; ".join(part for part in (measured, stack, *notes) if part) + "."


def report(results: dict[str, Any]) -> str:
    """Both tables and the caption.

    Raises:
        PSAQError: No row has a figure.
    """
    if not headline(results) or not bit_widths(results):
        raise PSAQError("the results hold no figures of a quantized model: run tools/ablate.py to its end")
    return "\n\n".join(part for part in (main_table(results), difference_table(results), caption(results)) if part)
