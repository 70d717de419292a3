"""The page: one HTML file with all pictures, charts, styles and scripts inside."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..errors import PSAQError
from ..utils.atomic_files import replacing, save_json
from ..utils.metrics import metric_of
from .charts import (
    Chart,
    coverage_chart,
    figures_chart,
    histogram_chart,
    row_name,
    sensitivity_chart,
    time_chart,
)
from .contents import Report

PAGE, CONTENTS, SENSITIVITY = "report.html", "report.json", "sensitivity.json"
# Rows of tables; the files beside the report hold all of them.
MOST_ROWS, MOST_SENSITIVE = 1500, 40


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json``, the contents, and ``report.html``, the page.

    Args:
        report: The contents.
        folder: The work dir; its ``sensitivity.json`` is shown if it exists.

    Returns:
        The path of the page.

    Raises:
        PSAQError: A file cannot be written, or ``sensitivity.json`` cannot be read.
    """
    save_json(report.to_dict(), folder / CONTENTS)
    return write_page(report, folder)


def rewrite_report(folder: Path) -> Path | None:
    """Write ``report.html`` again, from ``report.json`` and the ``sensitivity.json`` that is there now.

    Args:
        folder: The work dir of a run.

    Returns:
        The path of the page; None if the folder has no ``report.json``.

    Raises:
        PSAQError: A file cannot be read or written.
    """
    path = folder / CONTENTS
    if not path.exists():
        return None
    try:
        report = Report.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PSAQError(f"{path} cannot be read ({type(error).__name__}): run tools/dfq.py --resume again") from None
    return write_page(report, folder)


def write_page(report: Report, folder: Path) -> Path:
    """Write ``report.html`` atomically."""
    page = render(report, sensitivity_of(folder))
    with replacing(folder / PAGE) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return folder / PAGE


def sensitivity_of(folder: Path) -> dict[str, Any] | None:
    """The record that ``tools/analyze.py`` left in a work dir; None without one.

    Raises:
        PSAQError: It cannot be read.
    """
    path = folder / SENSITIVITY
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        for row in record["rows"]:
            row["layer"], row["tensor"], int(row["bits"]), float(row["features"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PSAQError(f"{path} cannot be read ({type(error).__name__}): run tools/analyze.py again") from None
    return record


def render(report: Report, sensitivity: dict[str, Any] | None = None) -> str:
    """The page as HTML.

    Names of configs, layers and classes are text of others: all of it is escaped.

    Args:
        report: The contents.
        sensitivity: ``sensitivity.json``.
    """
    histograms = [histogram_chart(one, number) for number, one in enumerate(report.histograms, 1)]
    charts: dict[str, Chart | None] = {
        "figures": figures_chart(report),
        "coverage": coverage_chart(report.coverage),
        "time": time_chart(report),
        **{key: sensitivity_chart(sensitivity, key) if sensitivity else None for key in ("features", "logits")},
    }
    drawn = [one for one in (*charts.values(), *histograms) if one is not None]
    figures = [{"key": one.key, **one.figure} for one in drawn]
    rows = (sensitivity or {}).get("rows", [])
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            report=report,
            charts=charts,
            histograms=list(zip(report.histograms, histograms, strict=True)),
            metrics=metrics_table(report),
            scaled=any(one.host == "mmdet" for row in report.rows for key in row["metrics"] if (one := metric_of(key))),
            row_names=[row_name(row) for row in report.rows],
            quantized=sum(row["bits"] is not None for row in report.coverage),
            coverage=report.coverage[:MOST_ROWS],
            kinds=kinds_table(report),
            sensitivity=sensitivity,
            sensitive=sorted(rows, key=lambda row: -row["features"])[:MOST_SENSITIVE],
            style=Markup(page_file("style.css")),
            script=Markup(page_file("script.js")),
            plotly=Markup(get_plotlyjs()),
            # "<" could end the script that holds the charts.
            figures=Markup(json.dumps(figures, allow_nan=False).replace("<", "\\u003c")),
        )
    )


def environment() -> Environment:
    """Jinja with escaping of everything that is not marked as safe."""
    made = Environment(
        loader=FunctionLoader(page_file),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["number"] = number
    return made


def page_file(name: str) -> str:
    """The text of a file of the page."""
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def metrics_table(report: Report) -> list[dict[str, Any]]:
    """All figures that are one number: title, key, a cell for each row and the difference; main figures first."""
    found = []
    for key in dict.fromkeys(key for row in report.rows for key in row["metrics"]):
        values = [row["metrics"].get(key) for row in report.rows]
        if not all(value is None or (isinstance(value, (int, float)) and value == value) for value in values):
            continue
        metric = metric_of(key)
        cells = ["-" if one is None else metric.show(one) if metric else number(one) for one in values]
        difference = "-"
        if len(values) == 2 and None not in values:
            apart = values[1] - values[0]
            difference = metric.show(apart, sign="+") if metric else f"{apart:+.4g}"
        title = metric.title if metric else key
        found.append({"title": title, "key": key, "cells": cells, "difference": difference, "main": metric is not None})
    return sorted(found, key=lambda row: not row["main"])


def kinds_table(report: Report) -> list[tuple[str, int, int, float | None]]:
    """For each kind of tensor: its number, the number of quantized ones, and their lowest SQNR in dB."""
    found = []
    for kind in dict.fromkeys(row["kind"] for row in report.coverage):
        rows = [row for row in report.coverage if row["kind"] == kind]
        noise = [row["sqnr"] for row in rows if row["sqnr"] is not None]
        found.append((kind, len(rows), sum(row["bits"] is not None for row in rows), min(noise, default=None)))
    return found
