"""The paper's table as records, CSV and Markdown: float figures, ours, the published ones and the difference."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...compat import versions
from ...errors import PSAQError
from ...utils.atomic_files import save_json, save_with
from ...utils.metrics import METRICS
from ...visualization.record_tables import markdown
from ..recipe import parse_bits
from ..results import SCHEMA, Results, Row
from .plan import SHOWN, Model, sources

TOOL = "paper_table"
COLUMNS = (
    "title",
    "model",
    "dataset",
    "images",
    "metric",
    "fp",
    "fp_published",
    "bits",
    "seeds",
    "ours",
    "paper",
    "difference",
    "source",
)


def read_runs(path: Path) -> Results | None:
    """The record of a model's runs (``ablation.json``); None if there is none.

    Raises:
        PSAQError: It cannot be read.
    """
    try:
        data = json.loads(path.read_text())
        if data["schema"] == SCHEMA:
            return Results.from_dict(data)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise PSAQError(f"{path} cannot be read: move it away to start its rows anew")


def in_percent(key: str, figure: float) -> float:
    """A figure of an evaluator in percent, as papers give it; COCO's evaluator gives shares."""
    return 100 * figure if METRICS[key].host == "mmdet" else figure


def figures(rows: Iterable[Row], key: str) -> dict[int, float]:
    """A metric of some rows in percent, by seed.

    Args:
        rows: The rows.
        key: The last part of the evaluator's key.
    """
    return {
        row.seed: in_percent(key, value)
        for row in rows
        for full, value in row.scalars.items()
        if full.rpartition("/")[2] == key
    }


def table_rows(models: Iterable[Model], folder: Path) -> list[dict[str, Any]]:
    """The rows of the table, one for each model, metric and bit width; figures that are missing are None.

    Args:
        models: The models of the table.
        folder: The folder of the runs.

    Raises:
        PSAQError: The record of a model cannot be read.
    """
    rows = []
    for model in models:
        runs = read_runs(folder / model.name / "ablation.json")
        if runs is None:
            continue
        floats = [row for row in runs.rows if row.arm == "fp32"]
        for key in (key for key in SHOWN if figures(floats, key)):
            fp = next(iter(figures(floats, key).values()))
            for bits in model.bits:
                width = parse_bits(bits)
                mine = [r for r in runs.rows if r.arm == "psaq" and (r.weight_bits, r.activation_bits) == width]
                by_seed = figures(mine, key)
                paper, source = model.paper.get(bits, {}).get(key, (None, None))
                ours = round(statistics.fmean(by_seed.values()), 4) if by_seed else None
                rows.append(
                    {
                        "title": model.title,
                        "model": model.name,
                        "dataset": model.dataset.name,
                        "images": runs.images,
                        "metric": METRICS[key].title,
                        "fp": round(fp, 4),
                        "fp_published": model.published.get(key),
                        "bits": bits.upper(),
                        "seeds": sorted(by_seed),
                        "ours": ours,
                        "ours_by_seed": [round(by_seed[seed], 4) for seed in sorted(by_seed)],
                        "paper": paper,
                        "difference": None if ours is None or paper is None else round(ours - paper, 4),
                        "source": source,
                        "seconds": round(sum(sum(row.seconds.values()) for row in mine), 2),
                    }
                )
    return rows


def write_table(models: Sequence[Model], folder: Path) -> Path:
    """Write ``paper_table.json``, ``.csv`` and ``.md`` from the records of the runs.

    Args:
        models: The models of the table.
        folder: The folder of the runs, which receives the files.

    Returns:
        The path of the Markdown table.
    """
    rows = table_rows(models, folder)
    record = {"tool": TOOL, "versions": versions(), "sources": sources(), "rows": rows}
    save_json(record, folder / f"{TOOL}.json")
    save_with(lambda path: write_csv(rows, path), folder / f"{TOOL}.csv")
    save_with(lambda path: path.write_text(paper_markdown(models, rows), encoding="utf-8"), folder / f"{TOOL}.md")
    return folder / f"{TOOL}.md"


def write_csv(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write the rows as CSV; cells without a figure are empty."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "seeds": " ".join(map(str, row["seeds"]))})


def paper_markdown(models: Iterable[Model], rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown: a line for each model and metric, three columns for each bit width, then the sources.

    Args:
        models: The models, whose data sets say how many images a published figure is of.
        rows: The rows of :func:`table_rows`.
    """
    widths = list(dict.fromkeys(row["bits"] for row in rows))
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["model"], row["metric"]), {})[row["bits"]] = row
    head = ["model", "data", "metric", "FP", "FP published"]
    head += [title for width in widths for title in (f"{width} ours", f"{width} paper", "difference")]
    cells = []
    for by_bits in lines.values():
        row = next(iter(by_bits.values()))
        line = [row["title"], row["dataset"], row["metric"], shown(row["fp"]), shown(row["fp_published"])]
        for width in widths:
            one = by_bits.get(width, {})
            source = f" ({one['source']})" if one.get("source") else ""
            line += [shown(one.get("ours")), shown(one.get("paper")) + source, shown(one.get("difference"), "+")]
        seeds = sorted({seed for one in by_bits.values() for seed in one["seeds"]})
        cells.append([*line, " ".join(map(str, seeds))])
    notes = [f"- {key}: {text}." for key, text in sources().items() if any(row["source"] == key for row in rows)]
    full = {one.dataset.name: one.dataset.images for one in models}
    for name, images in dict.fromkeys((row["dataset"], row["images"]) for row in rows):
        if images != full[name]:
            notes.append(f"- {name}: {images} images; published figures are of {full[name]} and do not compare.")
    text = (
        "In percent; differences are ours minus the paper's, in points; means over the seeds. An empty cell has no "
        "public figure, or its row has not run. Our settings are ours: those of the paper are not public."
    )
    return "\n\n".join([markdown([*head, "seeds"], cells, left=3), text, "\n".join(notes)]).rstrip() + "\n"


def shown(figure: float | None, sign: str = "") -> str:
    """A figure with two decimals; empty if there is none."""
    return "" if figure is None else f"{figure:{sign}.2f}"
