"""Write measured figures into the metafiles and the table of configs/README.md, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dev import metafiles
from dev.model_index import fill, read_models
from psaq_mm.cli import run_tool


def main() -> int:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="folder of model-index.yml and configs/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file would change")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    records = metafiles.tables(args.root / "results")
    old = []
    for path in sorted((args.root / "configs").rglob("metafile.yml")):
        text = path.read_text(encoding="utf-8")
        old += update(path, text, metafiles.fill(text, records), args.check)
    readme = args.root / "configs" / "README.md"
    text = readme.read_text(encoding="utf-8")
    old += update(readme, text, fill(text, read_models(args.root)), args.check)
    for path in old:
        print(f"{path} differs from the model index or results/: run python -m dev.config_table", file=sys.stderr)
    return int(bool(old))


def update(path: Path, text: str, filled: str, check: bool) -> list[Path]:
    """Write a file whose text changes; with ``check``, only return its path."""
    if filled == text:
        return []
    if check:
        return [path]
    path.write_text(filled, encoding="utf-8")
    return []


if __name__ == "__main__":
    sys.exit(run_tool(main))
