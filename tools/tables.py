"""Write the README's tables from results/*.json, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psaq_mm.engine.cli import run_tool
from psaq_mm.engine.report import fill


def main() -> int:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readme", nargs="?", type=Path, default=Path("README.md"))
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of NAME.json, for blocks <!-- table:NAME -->"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file would change")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    text = args.readme.read_text()
    filled = fill(text, args.results)
    if args.check:
        if filled != text:
            print(f"{args.readme} differs from {args.results}: run python tools/tables.py", file=sys.stderr)
        return int(filled != text)
    args.readme.write_text(filled)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
