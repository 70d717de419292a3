"""Write the table of configs/README.md from model-index.yml, or check that it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psaq_mm.engine.cli import run_tool
from psaq_mm.engine.model_index import fill, read_models


def main() -> int:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="folder of model-index.yml and configs/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file would change")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    readme = args.root / "configs" / "README.md"
    models = read_models(args.root)
    text = readme.read_text(encoding="utf-8")
    filled = fill(text, models)
    if args.check:
        if filled != text:
            print(f"{readme} differs from the model index: run python tools/config_table.py", file=sys.stderr)
        return int(filled != text)
    readme.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
