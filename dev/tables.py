"""Write the tables of the README and of docs/ from results/*.json, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dev.pages import fill, pages
from psaq_mm.cli import run_tool


def main() -> int:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "pages", nargs="*", type=Path, help="default: README.md and the pages of docs/ that have generated blocks"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of NAME.json, for blocks <!-- table:NAME -->"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file would change")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    stale = 0
    for page in args.pages or pages(Path()):
        text = page.read_text(encoding="utf-8")
        filled = fill(text, args.results)
        if not args.check:
            page.write_text(filled, encoding="utf-8")
        elif filled != text:
            print(f"{page} differs from {args.results}: run python -m dev.tables", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(run_tool(main))
