"""Records of the benchmarks and of ``tools/parity.py``: a JSON file for each tool, to which each call adds rows.

A record is ``{"tool", ..., "rows": [...]}``, with the conditions that all rows share (CPU, threads) and parts such as
``"ratios"``, whose keys start with ``"MODEL SIZE: "`` of a row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import PSAQError

# The keys that identify the rows of a call; a later call with equal values replaces them.
IDENTITY = ("model", "bits", "size", "part")
DEFAULTS = {"part": "backbone"}


def is_record(path: Path) -> bool:
    """Whether a file is a record; results of ablations, for example, are not."""
    try:
        return "tool" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return False


def load_record(path: Path) -> dict[str, Any]:
    """Read a record of any tool.

    Raises:
        PSAQError: The file is missing or not a record.
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
    """Read a record in order to add rows; a new record if the file does not exist.

    Args:
        path: Path of the record.
        tool: The tool of the record, such as ``'benchmark'`` for ``benchmarks/deployment.py``.
        **conditions: The conditions of the new rows, which must equal those of the record.

    Raises:
        PSAQError: The file is not a record, or one of another tool or other conditions.
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
    """Add results to a record; they replace older ones of the same model, bits, size and part.

    Args:
        old: A record.
        found: The new ``"rows"``, and parts such as ``"ratios"`` by label.

    Returns:
        A new record.
    """

    def identity(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(key, DEFAULTS.get(key)) for key in IDENTITY)

    mine = {identity(row) for row in found["rows"]}
    rows = [row for row in old["rows"] if identity(row) not in mine]
    labels = tuple(f"{row['model']} {row['size']}: " for row in rows)
    merged = {**old, "rows": rows + found["rows"]}
    for part in [key for key in found if key != "rows"]:
        kept = {name: value for name, value in old.get(part, {}).items() if name.startswith(labels)}
        merged[part] = {**kept, **found[part]}
    return merged
