"""The summary and the Markdown tables of ``results/zoo.json``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from psaq_mm.visualization.record_tables import markdown

from .record import ZooRecord, passed, was_run

Rows = list[dict[str, Any]]
NOTE = 140  # characters of an error that a table shows
HEAD = [
    "backbone",
    "configs",
    "groups run",
    "float model infers",
    "quantized and inferred",
    "attention products",
    "note",
]


def configs_in(rows: Rows) -> int:
    """The number of configs that rows cover."""
    return sum(len(row["covers"]) for row in rows)


def error_class(row: dict[str, Any]) -> str:
    """The stage and the error of a row without names and numbers of the model, to count equal failures together."""
    return f"{row['stage'] or 'not run'}: {row['error'].partition(' (')[0][:90]}"


def zoo_table(record: ZooRecord) -> str:
    """A table of all backbones: one row a class.

    Configs are counted by the run of their group: ``12 of 13`` are the configs of groups whose run passed, and those of
    all. A config of a group that has not been run is in neither.
    """
    classes: dict[tuple[str, str], Rows] = {}
    for row in sorted(record.rows, key=lambda one: (one["kind"] != "transformer", one["backbone"].lower())):
        classes.setdefault((row["kind"], row["backbone"]), []).append(row)
    return markdown(HEAD, [table_row(name, rows) for (_, name), rows in classes.items()], left=len(HEAD))


def table_row(name: str, rows: Rows) -> list[str]:
    """The cells of a backbone."""
    run = [row for row in rows if was_run(row) and row["stage"]]
    quantized = [row for row in run if passed(row, "infer")]
    cells = [f"`{name}`", str(configs_in(rows)), f"{len(run)} of {len(rows)}"]
    floats = [row for row in run if passed(row, "infer_float")]
    cells += [f"{configs_in(part)} of {configs_in(run)}" if run else "-" for part in (floats, quantized)]
    return [*cells, products_of(quantized), note_of(rows)]


def products_of(rows: Rows) -> str:
    """Whether the attention products of models are quantized: ``yes``, ``no``, or ``yes in 3 of 4`` of the groups."""
    if not rows:
        return "-"
    with_all = [row for row in rows if row["products"][0]]
    if len(with_all) in (0, len(rows)):
        return "yes" if with_all else "no"
    return f"yes in {len(with_all)} of {len(rows)}"


def note_of(rows: Rows) -> str:
    """The most frequent failure, with the number of configs, or nothing."""
    failures: Counter[str] = Counter()
    for row in rows:
        if row.get("error"):
            failures[row["error"].replace("|", "\\|")] += len(row["covers"])
    if not failures:
        return ""
    (text, count), *more = failures.most_common()
    text = text if len(text) <= NOTE else f"{text[: NOTE - 1].rstrip()}…"
    further = f"; {len(more)} other kinds of failures" if more else ""
    return f"{count}: {text}{further}"


def goals(record: ZooRecord) -> str:
    """How many configs of each library and kind build, infer and are quantized; counted in configs and in groups."""
    head = ["library", "backbone", "configs", "groups", "run", "float builds", "float infers", "quantized", "products"]
    found: dict[tuple[str, str], Rows] = {}
    for row in record.rows:
        kind = f"{row['kind']}, text model" if row["needs"] else row["kind"]
        found.setdefault((row["library"], kind), []).append(row)
    lines = []
    for (library, kind), rows in sorted(found.items()):
        run = [row for row in rows if was_run(row) and row["stage"]]
        done = [row for row in run if passed(row, "infer")]
        parts = [run, *([row for row in run if passed(row, stage)] for stage in ("build", "infer_float"))]
        parts += [done, [row for row in done if row["products"][0]]]
        counts = [f"{configs_in(part)} ({len(part)})" for part in parts]
        lines.append([library, kind, str(configs_in(rows)), str(len(rows)), *counts])
    return markdown(head, lines, left=2)


def summary(record: ZooRecord, shown: int = 40) -> str:
    """Counts by library and kind, configs that describe no model, and the most frequent failures by stage.

    Args:
        record: The record.
        shown: The number of failures to list.
    """
    lines = [goals(record), "configs (groups)", ""]
    for library, other in record.others.items():
        names = ", ".join(other["unreadable"]) or "none"
        lines.append(f"{library}: {len(other['no_model'])} describe no model; cannot be read: {names}")
    failures: dict[str, Rows] = {}
    for row in record.rows:
        if row.get("error"):
            failures.setdefault(error_class(row), []).append(row)
    lines += ["", "failures, in configs (groups):"]
    ordered = sorted(failures.items(), key=lambda one: -configs_in(one[1]))
    for text, rows in ordered[:shown]:
        lines.append(f"{configs_in(rows):5} ({len(rows)}) {text}  e.g. {rows[0]['library']} {rows[0]['config']}")
    return "\n".join(lines)
