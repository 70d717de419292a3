"""Write measured figures from ``results/*.json`` into the ``Metrics`` of the metafiles that mim reads."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dev.report import headline, main_arm, read_results, values
from psaq_mm.utils.records import is_record

BITS = re.compile(r"_w(\d)a(\d)$")
# The last part of the evaluators' keys, by task.
TASKS = {
    # Agreement is that of boxes.
    "Object Detection": ("bbox_mAP", "agreement"),
    "Instance Segmentation": ("segm_mAP",),
    "Semantic Segmentation": ("mIoU", "agreement"),
    "Image Classification": ("top1", "agreement"),
}
MINE = ("FP", "psaq")


def family(name: str) -> str:
    """A recipe's name without its bits, which the recipes of one model share."""
    return BITS.sub("", name)


def tables(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of ablations by family; of several records of one family, the one with the most rows."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        if is_record(path):
            continue
        results = read_results(path)
        name = family(results["config"].removeprefix("configs/").removesuffix(".py"))
        if len(results["rows"]) > len(found.get(name, {}).get("rows", ())):
            found[name] = results
    return found


def figures(results: dict[str, Any], name: str, task: str) -> dict[str, float]:
    """The figures of a model for a task.

    Args:
        results: The record of its family.
        name: A recipe's name, which ends in its bits, or the float model's.
        task: A key of :data:`TASKS`.

    Returns:
        ``FP box AP`` and, for a recipe that was measured, ``psaq box AP``: the mean over seeds.
    """
    metrics = {key: m for key, m in headline(results).items() if key.rpartition("/")[2] in TASKS[task]}
    bits = BITS.search(name)
    found: dict[str, float] = {}
    for arm, called in zip(("fp32", main_arm(results)), MINE, strict=True):
        if arm != "fp32" and bits is None:
            continue
        width = (int(bits[1]), int(bits[2])) if bits else (32, 32)
        for key, metric in metrics.items():
            measured = values(results, arm, width, key)
            if measured:
                mean = statistics.fmean(measured)
                found[f"{called} {metric.title}"] = float(metric.show(mean, mean=len(measured) > 1))
    return found


def fill(text: str, records: dict[str, dict[str, Any]]) -> str:
    """Replace the figures in a metafile's text. Comments, and models without a record, do not change.

    Args:
        text: YAML as the metafiles write it: a model's ``Name`` before its ``Results``, a result's ``Task`` before its
            ``Metrics``.
        records: See :func:`tables`.
    """
    return "\n".join(_filled(text.split("\n"), records))


def _filled(lines: Iterable[str], records: dict[str, dict[str, Any]]) -> Iterable[str]:
    name, task, inside = "", "", -1
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if inside >= 0 and line.strip() and indent > inside:
            continue  # an old figure
        inside = -1
        key, _, value = line.strip().removeprefix("- ").partition(":")
        if key == "Name":
            name = value.strip()
        elif key == "Task":
            task = value.strip()
        elif key == "Metrics" and family(name) in records:
            found = figures(records[family(name)], name, task)
            inside = indent
            yield f"{' ' * indent}Metrics:" + ("" if found else " {}")
            yield from (f"{' ' * (indent + 2)}{title}: {figure}" for title, figure in found.items())
            continue
        yield line
