"""``results/zoo.json``: the rows of all runs, and which configs they stand for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psaq_mm.errors import PSAQError
from psaq_mm.utils.atomic_files import save_json

from .configs import ZooConfig
from .groups import Group, representatives

TOOL = "zoo"


@dataclass
class ZooRecord:
    """The record.

    Attributes:
        rows: One row a group, run or not, in the order of the groups: what identifies it (:data:`IDENTITY`) and, once
            run, ``stage`` (the last that was begun), ``passed`` (the last that was passed), ``error`` and what the
            stages found.
        others: By library, the files that describe no model (``no_model``), and those that cannot be read with the
            error (``unreadable``).
        versions: Of the libraries.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the record."""
        save_json({"tool": TOOL, "versions": self.versions, "others": self.others, "rows": self.rows}, path)


def read_zoo(path: Path) -> ZooRecord:
    """Read a record; an empty one if the file does not exist.

    Raises:
        PSAQError: The file is no record of this tool.
    """
    if not path.exists():
        return ZooRecord()
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        if loaded["tool"] == TOOL:
            return ZooRecord(loaded["rows"], loaded["others"], loaded["versions"])
    except (ValueError, KeyError, TypeError):
        pass
    raise PSAQError(f"{path} is no record of python -m dev.zoo: give another --out")


def update(record: ZooRecord, configs: Iterable[ZooConfig], groups: list[Group]) -> None:
    """Enter the configs and groups of the installed libraries; what was found for groups that are still there stays.

    Args:
        record: Changed in place.
        configs: All configs.
        groups: Their groups, in the order of the rows.
    """
    known = {(row["library"], row["key"]): row for row in record.rows}
    libraries = {group.library for group in groups}
    first = {(group.library, group.key) for group in representatives(groups)}
    kept = [row for row in record.rows if row["library"] not in libraries]
    rows = []
    for group in groups:
        described = {**identity(group), "representative": (group.library, group.key) in first}
        found = known.get((group.library, group.key), {})
        rows.append({**described, **{key: value for key, value in found.items() if key not in described}})
    record.rows[:] = [*kept, *rows]
    for library in libraries:
        record.others[library] = {"no_model": [], "unreadable": {}}
    for config in configs:
        if config.error:
            record.others[config.library]["unreadable"][config.name] = config.error
        elif config.model is None:
            record.others[config.library]["no_model"].append(config.name)


def identity(group: Group) -> dict[str, Any]:
    """The keys of a row that are known without a run."""
    return {
        "library": group.library,
        "key": group.key,
        "config": group.config,
        "covers": list(group.covers),
        "kind": group.kind,
        "needs": group.needs,
        "model": group.model,
        "backbone": group.backbone,
    }


def enter(row: dict[str, Any], found: dict[str, Any]) -> None:
    """Replace what an earlier run found in a row."""
    for key in set(row) - set(IDENTITY):
        del row[key]
    row |= found


IDENTITY = ("library", "key", "config", "covers", "kind", "needs", "model", "backbone", "representative")


def was_run(row: dict[str, Any]) -> bool:
    """Whether a row has been run."""
    return "seconds" in row


def passed(row: dict[str, Any], stage: str) -> bool:
    """Whether a row's run has passed a stage; the stages are in the order of :data:`dev.zoo.stages.STAGES`."""
    order = ("build", "infer_float", "quantize", "generate", "calibrate", "distill", "infer")
    return row.get("passed") in order[order.index(stage) :]
