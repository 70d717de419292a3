"""Markdown tables of the records of the benchmarks and of ``tools/parity.py``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..utils.metrics import metric_of


def markdown(head: list[str], rows: Iterable[list[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are left-aligned, the others right-aligned."""
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def record_markdown(record: dict[str, Any]) -> str:
    """The tables of a record; its ``tool`` selects their form."""
    return "\n\n".join(TABLES[record["tool"]](record))


def deploy_tables(record: dict[str, Any]) -> list[str]:
    """Times of ``benchmarks/deployment.py``, their ratios and the engines' profiles."""
    rows = []
    for row in record["rows"]:
        low, high = (f"{1e3 * one:.1f}" for one in row["seconds_quartiles"])
        took = f"{1e3 * row['seconds_median']:.1f} ({low}-{high})"
        file, memory = shown(row["file_mib"], 1), shown(row["memory_mib"], 0)
        rows.append([row["model"], row["size"], row["engine"], row["precision"], took, file, memory])
    kinds = list(next(iter(record["profile"].values())))
    profile = [[name, *(f"{1e3 * taken[kind]:.2f}" for kind in kinds)] for name, taken in record["profile"].items()]
    return [
        f"{conditions(record)}, batch 1, medians of interleaved rounds (quartiles).",
        markdown(["model", "image", "engine", "precision", "ms", "file MiB", "memory MiB"], rows, left=4),
        named("ratio", record["ratios"], ".2f"),
        markdown(["ms by kind of operator", *kinds], profile),
    ]


def generation_tables(record: dict[str, Any]) -> list[str]:
    """Times of ``benchmarks/generation.py``, their ratios and the errors of our entropy."""
    rows = [
        [
            row["model"],
            row["size"],
            str(row["batch"]),
            row["what"],
            f"{1e3 * row['seconds_median']:.1f}",
            shown(row["memory_mib"], 0),
        ]
        for row in record["rows"]
    ]
    return [
        f"{conditions(record)}, medians of interleaved rounds.",
        markdown(["model", "image", "batch", "what", "ms", "memory MiB"], rows, left=4),
        named("ratio", record["ratios"], ".2f"),
        named("relative error", record["errors"], ".1e"),
    ]


def parity_tables(record: dict[str, Any]) -> list[str]:
    """Metrics of ``tools/parity.py``, each row with the difference from the first of its model.

    That is the float model where the record has it, else the simulation.
    """
    rows = []
    first: dict[str, Any] = {}
    for row in record["rows"]:
        same = [row[key] for key in ("model", "bits", "size")] + [row.get("part", "backbone")]
        if not first or first["same"] != same:
            first = {"same": same, "row": row}
        cells = metric_cells(row["metrics"], {} if row is first["row"] else first["row"]["metrics"])
        rows.append([*same, row["engine"], shown(row["sqnr_db"], 1), ", ".join(cells)])
    return [markdown(["model", "bits", "image", "exported", "runs in", "SQNR dB", "figures"], rows, left=5)]


def model_tables(record: dict[str, Any]) -> list[str]:
    """Times of ``benchmarks/models.py`` by stage, their ratios, start-ups and the engines' profiles."""
    models: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]] = {}
    for row in record["rows"]:
        key = row["model"], row["size"], row["engine"], row["precision"]
        models.setdefault(key, {})[row["stage"]] = row
    rows = []
    for contender, stages in models.items():
        low, high = (f"{1e3 * one:.1f}" for one in stages["all"]["seconds_quartiles"])
        heads = [row for name, row in stages.items() if name not in ("all", "images", "glue")]
        noise = [row["sqnr_db"] for row in stages.values() if row["sqnr_db"] is not None]
        rows.append(
            [
                *contender,
                f"{1e3 * stages['all']['seconds_median']:.1f} ({low}-{high})",
                f"{1e3 * stages['images']['seconds_median']:.1f}",
                f"{1e3 * sum(row['seconds_median'] for row in heads):.1f}" if heads else "",
                f"{1e3 * stages['glue']['seconds_median']:.1f}",
                shown(min(noise, default=None), 1),
            ]
        )
    columns = ["model", "image", "runs in", "precision", "ms", "image part", "RoI heads", "between", "SQNR dB"]
    started = [
        [name, shown(one["seconds_load"], 2), shown(one["seconds_first"], 2), shown(one["file_mib"], 1)]
        + [shown(one["memory_mib"], 0)]
        for name, one in record["startup"].items()
    ]
    kinds = list(next(iter(record["profile"].values())))
    profile = [[name, *(f"{1e3 * taken[kind]:.2f}" for kind in kinds)] for name, taken in record["profile"].items()]
    return [
        f"{conditions(record)}, one image, medians of interleaved rounds (quartiles).",
        markdown(columns, rows, left=4),
        named("ratio", record["ratios"], ".2f"),
        markdown(["start-up", "load s", "first prediction s", "file MiB", "memory MiB"], started),
        markdown(["ms by kind of operator", *kinds], profile),
    ]


def nncf_tables(record: dict[str, Any]) -> list[str]:
    """Metrics of ``benchmarks/nncf_accuracy.py``: of the float model, and of both quantizations with the difference."""
    rows = []
    float_model: dict[str, float] = {}
    for row in record["rows"]:
        is_float = row["precision"] == "fp32"
        if is_float:
            float_model = row["metrics"]
        cells = metric_cells(row["metrics"], {} if is_float else float_model)
        by, bits, images = ("", "fp32", "") if is_float else (row["engine"], row["bits"], str(row["images"]))
        if row["engine"] == "nncf":
            bits = "w8a8"
        rows.append([row["model"], row["size"], by, bits, images, ", ".join(cells)])
    return [markdown(["model", "image", "quantized by", "bits", "real images", "figures"], rows, left=4)]


def rank_tables(record: dict[str, Any]) -> list[str]:
    """Rank correlations of ``benchmarks/sensitivity_ranks.py``."""
    rows = [
        [
            row["model"],
            row["settings"],
            " and ".join(row["sources"]),
            row["part"],
            row["bits"],
            str(row["tensors"]),
            shown(row["logits"], 3),
            shown(row["features"], 3),
        ]
        for row in record["rows"]
    ]
    head = ["model", "settings", "images", "tensors", "bits", "number", "logits", "features"]
    return [markdown(head, rows, left=4), *score_tables(record)]


def score_tables(record: dict[str, Any]) -> list[str]:
    """Rank correlations of each score with ``features`` on the other images; nothing if no row has them."""
    scores = dict.fromkeys(score for row in record["rows"] for score in row.get("with_features", ()))
    if not scores:
        return []
    rows = []
    for row in record["rows"]:
        found, seconds = row.get("with_features", {}), row.get("seconds", {})
        figures = [shown(one, 3) for one in (row["features"], *(found.get(score) for score in scores))]
        times = [shown(seconds.get(key), 1) for key in ("passes", "scores")]
        head = [row["model"], row["settings"], row["part"], row["bits"]]
        rows.append([*head, *(cell or "-" for cell in (*figures, *times))])
    text = (
        "Each score on the first images with `features` on the second. The seconds are those of one machine for each "
        "row: of the forward passes behind `features` and `logits`, one for each tensor, and of the passes behind all "
        "other scores together."
    )
    head = ["model", "settings", "tensors", "bits", "features", *scores, "s of passes", "s of other scores"]
    return [text, markdown(head, rows, left=3)]


def expected_tables(record: dict[str, Any]) -> list[str]:
    """How many measured losses are where ``benchmarks/expected_loss.py`` expects them, and the curves."""
    rows = [
        [
            title_of(row["figure"]),
            row["model"],
            str(row["points"]),
            str(row["right"]) if row["fitted"] else "-",
            str(row["right_held_out"]),
        ]
        for row in record["summary"]
    ]
    curves = [
        [
            title_of(figure),
            one["distance"],
            f"{one['scale']:.3g}",
            f"{one['power']:.2f}",
            f"{math.exp(one['spread']):.2f}",
        ]
        for figure, fits in record["curves"].items()
        for one in fits
    ]
    return [
        markdown(["figure", "model", "points", "as expected", "as expected by the other models"], rows, left=2),
        markdown(["figure", "distance", "scale", "power", "error bar, factor"], curves, left=2),
    ]


def title_of(figure: str) -> str:
    """The title of a figure in tables."""
    metric = metric_of(figure)
    return metric.title if metric else figure


def mixed_tables(record: dict[str, Any]) -> list[str]:
    """Sizes and figures of ``benchmarks/mixed_precision.py``, with the difference from the float model."""
    rows = [
        [
            row["model"],
            row["bits"],
            row["size"],
            row["part"],
            f"{row['share']:.4f}",
            ", ".join(metric_cells(row["metrics"], row["float"])),
        ]
        for row in record["rows"]
    ]
    return [markdown(["model", "settings", "seed", "weights", "size", "figures"], rows, left=4)]


def metric_cells(metrics: dict[str, float], reference: dict[str, float]) -> list[str]:
    """Titles and values of known metrics, with their difference from those of a reference."""
    cells = []
    for key, value in metrics.items():
        metric = metric_of(key)
        if metric:
            apart = f" ({metric.show(value - reference[key], sign='+')})" if key in reference else ""
            cells.append(f"{metric.title} {metric.show(value)}{apart}")
    return cells


def conditions(record: dict[str, Any]) -> str:
    """CPU and threads of the measured times."""
    return f"{record['cpu']}, {record['threads']} threads"


def named(head: str, values: dict[str, float], form: str) -> str:
    """A table with a name and a number in each row."""
    return markdown([head, ""], ([name, format(value, form)] for name, value in values.items()))


def shown(value: float | None, digits: int) -> str:
    """A number with a fixed number of digits; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


TABLES = {
    "benchmark": deploy_tables,
    "benchmark_generation": generation_tables,
    "benchmark_models": model_tables,
    "expected_loss": expected_tables,
    "mixed_precision": mixed_tables,
    "nncf_accuracy": nncf_tables,
    "parity": parity_tables,
    "sensitivity_ranks": rank_tables,
}
