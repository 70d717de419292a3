"""Compare arms, bit widths and seeds in one run; goes on at the next missing row when called again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psaq_mm.cli import CONSOLE, common_arguments, read_config, run_tool
from psaq_mm.engine.ablation import Ablation
from psaq_mm.engine.arms import ARMS
from psaq_mm.engine.results import results_table


def main() -> int:
    """Parse, build, call."""
    parser = argparse.ArgumentParser(description=__doc__)
    common_arguments(parser)
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w6a6", "w4a8"], metavar="wXaY")
    parser.add_argument("--arms", nargs="+", default=["fp32", *ARMS], metavar="ARM", help=f"fp32, {', '.join(ARMS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--once", nargs="*", default=[], metavar="ARM", help="arms that take the first seed only")
    args = parser.parse_args()
    cfg = read_config(args)
    ablation = Ablation(cfg, args.bits, args.arms, args.seeds, args.once, Path(cfg.work_dir), CONSOLE)
    CONSOLE.print(results_table(ablation.run()))
    CONSOLE.print(f"{ablation.path}, ablation.csv and ablation.md beside it")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
