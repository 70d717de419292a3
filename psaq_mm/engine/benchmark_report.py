"""Records of the benchmarks and of parity: kept, and shown as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import PSAQError
from .results import metric_of
from .timing import cpu


def read_record(path: Path, threads: int, column: str) -> dict[str, Any]:
    """A record to which rows can be added; an empty one where there is none yet.

    Args:
        path: Of the record.
        threads: How many the new rows are for.
        column: What rows of this tool have and those of others have not.

    Raises:
        PSAQError: It is none of this tool's, or of another CPU or number of threads.
    """
    if not path.exists():
        return {"rows": [], "ratios": {}}
    try:
        record = json.loads(path.read_text())
        found = record["cpu"], record["threads"], record["ratios"].keys(), [row[column] for row in record["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PSAQError(f"{path} is no record of this tool: give another --out") from None
    if found[:2] != (cpu(), threads):
        raise PSAQError(f"{path} holds times of {found[0]} with {found[1]} threads: give another --out")
    return record


def merge_record(old: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add what a benchmark found to a record, in the place of older rows of the same model and size."""
    mine = {(row["model"], row["size"]) for row in found["rows"]}
    rows = [row for row in old["rows"] if (row["model"], row["size"]) not in mine]
    labels = tuple(f"{row['model']} {row['size']}: " for row in rows)
    merged = {**found, "rows": rows + found["rows"]}
    for part in ("ratios", "errors", "profile"):
        if part in found:
            kept = {name: value for name, value in old.get(part, {}).items() if name.startswith(labels)}
            merged[part] = {**kept, **found[part]}
    return merged


def benchmark_markdown(record: dict[str, Any]) -> str:
    """The rows and ratios of a record as Markdown."""
    lines = [
        f"{record['cpu']}, {record['threads']} threads, batch 1, medians of interleaved rounds (quartiles).",
        "",
        "| model | image | engine | precision | ms | file MiB | memory MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        low, high = (f"{1e3 * one:.1f}" for one in row["seconds_quartiles"])
        file, memory = (
            "" if row[key] is None else f"{row[key]:.{digits}f}" for key, digits in (("file_mib", 1), ("memory_mib", 0))
        )
        took = f"{1e3 * row['seconds_median']:.1f} ({low}-{high})"
        lines.append(
            f"| {row['model']} | {row['size']} | {row['engine']} | {row['precision']} | {took} | {file} | {memory} |"
        )
    lines += ["", "| ratio | |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in record["ratios"].items()]
    kinds = list(next(iter(record["profile"].values())))
    lines += ["", f"| ms by kind of operator | {' | '.join(kinds)} |", "|---|" + "---:|" * len(kinds)]
    for name, taken in record["profile"].items():
        lines.append(f"| {name} | {' | '.join(f'{1e3 * taken[kind]:.2f}' for kind in kinds)} |")
    return "\n".join(lines) + "\n"


def read_parity(path: Path) -> dict[str, Any]:
    """A record of ``tools/parity.py``; an empty one where there is none yet.

    Raises:
        PSAQError: It is none.
    """
    if not path.exists():
        return {"rows": []}
    try:
        record = json.loads(path.read_text())
        known = all({"model", "bits", "size", "engine", "sqnr_db", "metrics"} <= set(row) for row in record["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise PSAQError(f"{path} is no record of tools/parity.py: give another --out")
    return record


def merge_parity(old: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Add rows to a record, in the place of older ones of the same model, bits and size."""
    mine = {(row["model"], row["bits"], row["size"]) for row in rows}
    return {"rows": [row for row in old["rows"] if (row["model"], row["bits"], row["size"]) not in mine] + rows}


def parity_markdown(record: dict[str, Any]) -> str:
    """The rows of a parity record: figures of the simulation, and of every engine with what they differ by."""
    lines = ["| model | bits | image | runs in | SQNR dB | figures |", "|---|---|---|---|---:|---|"]
    simulated: dict[str, float] = {}
    for row in record["rows"]:
        metrics = {key: metric for key in row["metrics"] if (metric := metric_of(key))}
        if row["engine"] == "simulation":
            simulated = row["metrics"]
        cells = []
        for key, metric in metrics.items():
            value = row["metrics"][key]
            apart = f" ({metric.show(value - simulated[key], sign='+')})" if row["engine"] != "simulation" else ""
            cells.append(f"{metric.title} {metric.show(value)}{apart}")
        noise = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        lines.append(
            f"| {row['model']} | {row['bits']} | {row['size']} | {row['engine']} | {noise} | {', '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def deploy_tables(path: Path) -> str:
    """The tables of a committed record: times, or parity where its name says so.

    Raises:
        PSAQError: It is missing or none.
    """
    if not path.is_file():
        raise PSAQError(f"there is no {path}: make it with tools/benchmark.py or tools/parity.py")
    if path.stem.endswith("parity"):
        return parity_markdown(read_parity(path)).rstrip()
    show = generation_markdown if path.stem.startswith("generation") else benchmark_markdown
    return show(json.loads(path.read_text())).rstrip()


def generation_markdown(record: dict[str, Any]) -> str:
    """The rows, ratios and errors of a record of ``tools/benchmark_generation.py``."""
    lines = [
        f"{record['cpu']}, {record['threads']} threads, medians of interleaved rounds.",
        "",
        "| model | image | batch | what | ms | memory MiB |",
        "|---|---|---:|---|---:|---:|",
    ]
    for row in record["rows"]:
        memory = "" if row["memory_mib"] is None else f"{row['memory_mib']:.0f}"
        cells = [
            row["model"],
            row["size"],
            str(row["batch"]),
            row["what"],
            f"{1e3 * row['seconds_median']:.1f}",
            memory,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| ratio | |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in record["ratios"].items()]
    lines += ["", "| relative error | |", "|---|---:|"]
    lines += [f"| {name} | {value:.1e} |" for name, value in record["errors"].items()]
    return "\n".join(lines) + "\n"
