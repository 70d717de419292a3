"""Records of the tools that measure: one JSON file each, to which every call adds rows.

A record is ``{"tool", ..., "rows": [...]}``, with the conditions that all its rows share (CPU and threads of times) and
parts such as ``"ratios"``, whose keys begin with a row's ``"MODEL SIZE: "``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import PSAQError

# What tells the rows of one call from another's.
IDENTITY = ("model", "bits", "size")


def is_record(path: Path) -> bool:
    """Whether a file is such a record; the results of ablations, for instance, are not."""
    try:
        return "tool" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return False


def load_record(path: Path) -> dict[str, Any]:
    """A record of any tool.

    Raises:
        PSAQError: It is missing or none.
    """
    try:
        record = json.loads(path.read_text())
        if isinstance(record["tool"], str) and all(isinstance(row, dict) for row in record["rows"]):
            return record
    except OSError as error:
        raise PSAQError(f"there is no {path} ({error.strerror}): make it with the tool that measures it") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise PSAQError(f"{path} is no record of a benchmark or of tools/parity.py: give another --out")


def read_record(path: Path, tool: str, **conditions: Any) -> dict[str, Any]:
    """A record to which rows can be added; an empty one where there is none yet.

    Args:
        path: Of the record.
        tool: Whose it must be, such as ``'benchmark'`` for ``benchmarks/deployment.py``.
        **conditions: What must be equal for all rows.

    Raises:
        PSAQError: It is another tool's or none, or of other conditions.
    """
    if not path.exists():
        return {"tool": tool, **conditions, "rows": []}
    record = load_record(path)
    if record["tool"] != tool:
        raise PSAQError(f"{path} is a record of {record['tool']!r}, not of {tool!r}: give another --out")
    for name, value in conditions.items():
        if record.get(name) != value:
            raise PSAQError(
                f"{path} holds rows of another {name} ({record.get(name)}, not {value}): give another --out"
            )
    return record


def merge_record(old: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add what was found to a record, in the place of what it held of the same models, bits and sizes.

    Args:
        old: A record.
        found: ``"rows"``, and parts by label.
    """

    def identity(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(key) for key in IDENTITY)

    mine = {identity(row) for row in found["rows"]}
    rows = [row for row in old["rows"] if identity(row) not in mine]
    labels = tuple(f"{row['model']} {row['size']}: " for row in rows)
    merged = {**old, "rows": rows + found["rows"]}
    for part in [key for key in found if key != "rows"]:
        kept = {name: value for name, value in old.get(part, {}).items() if name.startswith(labels)}
        merged[part] = {**kept, **found[part]}
    return merged
