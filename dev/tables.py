"""Write the tables of the README and the docs from results/*.json, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dev.report import fill
from psaq_mm.cli import run_tool


def main() -> int:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__)
    pages = [Path("README.md"), Path("docs/deploy.md"), Path("docs/running.md")]
    parser.add_argument("pages", nargs="*", type=Path, default=pages)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of NAME.json, for blocks <!-- table:NAME -->"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file would change")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    stale = 0
    for page in args.pages:
        text = page.read_text()
        filled = fill(text, args.results)
        if not args.check:
            page.write_text(filled)
        elif filled != text:
            print(f"{page} differs from {args.results}: run python -m dev.tables", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(run_tool(main))
