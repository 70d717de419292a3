"""The README's tables, from the records of ``tools/ablate.py``: pure functions from results to Markdown."""

from __future__ import annotations

import io
import json
import re
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import PSAQError
from .arms import ARMS
from .results import SCHEMA, Results, results_table

TITLES = {"bbox_mAP": "box AP", "segm_mAP": "mask AP", "mIoU": "mIoU", "aAcc": "pixel accuracy", "top1": "top-1"}
DEMO = re.compile(r"(<!-- demo-output -->\n).*?(<!-- /demo-output -->)", re.DOTALL)
# Whose evaluator gives a figure, where it isn't mmdet's.
HOSTS = {"mIoU": "mmseg", "top-1": "mmpretrain"}
BLOCK = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


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


def headline(results: dict[str, Any]) -> dict[str, str]:
    """The evaluator's keys that get a column, with their titles, in the evaluator's order."""
    keys = dict.fromkeys(key for row in results["rows"] for key in row["metrics"])
    return {key: TITLES[key.rpartition("/")[2]] for key in keys if key.rpartition("/")[2] in TITLES}


def bit_widths(results: dict[str, Any]) -> list[tuple[int, int]]:
    """Weight and activation bits of the quantized rows, in their order."""
    rows = (row for row in results["rows"] if row["arm"] != "fp32")
    return list(dict.fromkeys((row["weight_bits"], row["activation_bits"]) for row in rows))


def arms(results: dict[str, Any]) -> list[str]:
    """The arms that have rows: the float model, the known ones in their own order, then others."""
    present = dict.fromkeys(row["arm"] for row in results["rows"])
    known = [arm for arm in ("fp32", *ARMS) if arm in present]
    return known + [arm for arm in present if arm not in known]


def values(results: dict[str, Any], arm: str, bits: tuple[int, int], key: str) -> list[float]:
    """One figure of an arm, a value for each seed. The float model's is the same for all bit widths."""
    rows = [row for row in results["rows"] if row["arm"] == arm and key in row["metrics"]]
    return [
        row["metrics"][key] for row in rows if arm == "fp32" or (row["weight_bits"], row["activation_bits"]) == bits
    ]


def mean_and_error(figures: list[float]) -> str:
    """Mean and its standard error ``s / sqrt(n)``, s with n - 1 in the denominator; one figure has no error.

    A mean has a digit more than the figures, which COCO's evaluation rounds to three.

    Example: 0.70, 0.71 and 0.72 give ``0.7100 ± 0.0058``.
    """
    if not figures:
        return "-"
    mean = statistics.fmean(figures)
    if len(figures) < 2:
        return f"{mean:.3f}"
    return f"{mean:.4f} ± {statistics.stdev(figures) / len(figures) ** 0.5:.4f}"


def seeds(results: dict[str, Any], arm: str) -> str:
    """How many seeds an arm has: one number, or one for each bit width where they differ, as in ``3/3/1``."""
    first = next(iter(headline(results)))
    counts = [len(values(results, arm, bits, first)) for bits in bit_widths(results)]
    return str(counts[0]) if len(set(counts)) == 1 else "/".join(map(str, counts))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with its first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main_table(results: dict[str, Any]) -> str:
    """One row an arm, mean and standard error over seeds in one column for each bit width and figure."""
    columns = [(bits, key) for bits in bit_widths(results) for key in headline(results)]
    head = ["arm", "seeds", *(f"W{w}A{a} {headline(results)[key]}" for (w, a), key in columns)]
    rows = []
    for arm in arms(results):
        cells = [mean_and_error(values(results, arm, bits, key)) for bits, key in columns]
        rows.append([f"`{arm}`", seeds(results, arm), *cells])
    return markdown(head, rows)


def difference_table(results: dict[str, Any], arm: str = "psaq") -> str:
    """An arm's mean minus each other arm's; empty where the arm has no rows."""
    if arm not in arms(results):
        return ""
    columns = [(bits, key) for bits in bit_widths(results) for key in headline(results)]
    head = [f"`{arm}` minus", *(f"W{w}A{a} {headline(results)[key]}" for (w, a), key in columns)]
    rows = []
    for rival in arms(results):
        if rival != arm:
            pairs = [(values(results, arm, *column), values(results, rival, *column)) for column in columns]
            gaps = [f"{statistics.fmean(a) - statistics.fmean(b):+.4f}" if a and b else "-" for a, b in pairs]
            rows.append([f"`{rival}`", *gaps])
    return markdown(head, rows)


def caption(results: dict[str, Any]) -> str:
    """What was measured, and with what."""
    counted, used = results["coverage"], results["versions"]
    host = next((HOSTS[title] for title in headline(results).values() if title in HOSTS), "mmdet")
    stack = ", ".join(f"{name} {used[name]}" for name in ("torch", host) if name in used)
    return (
        f"`{results['config']}`, {results['images']} evaluation images, {counted['quantized']} tensors quantized and "
        f"{counted['fp']} left FP; {stack}."
    )


def report(results: dict[str, Any]) -> str:
    """Both tables and the caption.

    Raises:
        PSAQError: No row has a figure.
    """
    if not headline(results) or not bit_widths(results):
        raise PSAQError("the results hold no figures of a quantized model: run tools/ablate.py to its end")
    return "\n\n".join(part for part in (main_table(results), difference_table(results), caption(results)) if part)


def closing_table(results: dict[str, Any]) -> str:
    """What ``tools/dfq.py`` prints last, as it stands on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(Results.from_dict(results)))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def fill(text: str, folder: Path) -> str:
    """Put the tables between their markers.

    Args:
        text: Markdown with blocks ``<!-- table:NAME -->`` … ``<!-- /table -->``, and maybe one
            ``<!-- demo-output -->`` … ``<!-- /demo-output -->``.
        folder: Where ``NAME_mask_rcnn.json`` lies, and ``demo_run.json``, the ``results.json`` of a ``make demo``.

    Raises:
        PSAQError: There is no block, or a block's results cannot be read.
    """

    def table(match: re.Match[str]) -> str:
        results = read_results(folder / f"{match['name']}_mask_rcnn.json")
        return f"{match[1]}\n{report(results)}\n\n{match[3]}"

    def demo(match: re.Match[str]) -> str:
        return f"{match[1]}```text\n{closing_table(read_results(folder / 'demo_run.json'))}\n```\n{match[2]}"

    filled, blocks = BLOCK.subn(table, DEMO.sub(demo, text))
    if not blocks:
        raise PSAQError("there is no block <!-- table:NAME --> … <!-- /table --> to fill: add one")
    return filled
