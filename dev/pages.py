"""The pages of the documentation, and the blocks in them that are generated from ``results/``.

A block stands between two comments. ``<!-- table:NAME -->`` ... ``<!-- /table -->`` holds the tables of
``results/NAME.json``, ``<!-- headline -->`` ... ``<!-- /headline -->`` one row a task, ``<!-- demo-output -->`` ...
``<!-- /demo-output -->`` the last lines of a ``make demo``, ``<!-- errors:NAME -->`` ... ``<!-- /errors -->`` the
errors that the subpackage or module ``psaq_mm.NAME`` raises, ``<!-- zoo -->`` ... ``<!-- /zoo -->`` the backbones of
``results/zoo.json``, ``<!-- timm -->`` ... ``<!-- /timm -->`` the families of ``results/timm_families.json``, and
``<!-- backbones -->`` ... ``<!-- /backbones -->`` those that adapters declare.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from dev.backbone_table import backbone_table
from dev.error_table import error_table
from dev.headline import headline_table
from dev.report import read_results, report
from dev.timm_table import families_table, read_families
from dev.zoo.record import read_zoo
from dev.zoo.table import zoo_table
from psaq_mm.engine.results import Results, results_table
from psaq_mm.errors import PSAQError
from psaq_mm.utils.records import is_record, load_record
from psaq_mm.visualization.record_tables import record_markdown

BLOCK = re.compile(
    r"^<!-- (?P<kind>table|headline|demo-output|errors|zoo|timm|backbones)(?::(?P<name>[\w/-]+))? -->\n"
    r".*?^<!-- /(?P=kind) -->",
    re.DOTALL | re.MULTILINE,
)


def pages(root: Path) -> list[Path]:
    """The README and the pages of ``docs/`` that have generated blocks."""
    found = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return [page for page in found if BLOCK.search(page.read_text(encoding="utf-8"))]


def fill(text: str, folder: Path) -> str:
    """Write the generated blocks of a page; all other text stays as it is.

    Args:
        text: Markdown with at least one block, see the module's description.
        folder: The folder of the records ``NAME.json``; ``demo_run.json`` is the ``results.json`` of a ``make demo``.

    Raises:
        PSAQError: The page has no block, or a record cannot be read.
    """

    def block(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        label = kind if name is None else f"{kind}:{name}"
        return f"<!-- {label} -->\n{KINDS[kind](folder, name or '')}\n<!-- /{kind} -->"

    filled, blocks = BLOCK.subn(block, text)
    if not blocks:
        raise PSAQError("there is no block <!-- table:NAME --> … <!-- /table --> to fill: add one")
    return filled


def tables(folder: Path, name: str) -> str:
    """The tables of one record: of an ablation, of a benchmark or of ``tools/parity.py``."""
    path = folder / f"{name}.json"
    return f"\n{record_markdown(load_record(path)) if is_record(path) else report(read_results(path))}\n"


def headline(folder: Path, name: str) -> str:
    """One row a task. The block has no name."""
    return f"\n{headline_table(folder)}\n"


def demo_output(folder: Path, name: str) -> str:
    """What the demo prints last. The block has no name."""
    return f"```text\n{closing_table(folder / 'demo_run.json')}\n```"


def errors(folder: Path, name: str) -> str:
    """What the package's source raises."""
    return f"\n{error_table(name)}\n"


def zoo(folder: Path, name: str) -> str:
    """One row a backbone of the libraries' configs. The block has no name."""
    record = read_zoo(folder / "zoo.json")
    return f"\n{zoo_table(record) if record.rows else 'These runs have not been made for this version.'}\n"


def backbones(folder: Path, name: str) -> str:
    """One row a backbone with an adapter. The block has no name."""
    return f"\n{backbone_table(read_zoo(folder / 'zoo.json'))}\n"


def timm(folder: Path, name: str) -> str:
    """What came of one model of each family. The block has no name."""
    return f"\n{families_table(read_families(folder / 'timm_families.json'))}\n"


KINDS: dict[str, Callable[[Path, str], str]] = {
    "table": tables,
    "headline": headline,
    "demo-output": demo_output,
    "errors": errors,
    "zoo": zoo,
    "timm": timm,
    "backbones": backbones,
}


def closing_table(path: Path) -> str:
    """The table that ``tools/dfq.py`` prints last, on a terminal of 80 columns.

    Raises:
        PSAQError: The record cannot be read.
    """
    printed = io.StringIO()
    Console(file=printed, width=80).print(results_table(Results.from_dict(read_results(path))))
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
