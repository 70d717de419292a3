"""Compare arms, bit widths and seeds in one run; goes on at the next missing row when called again."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmengine.dist import is_main_process

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
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args)
    cfg.launcher = args.launcher
    ablation = Ablation(cfg, args.bits, args.arms, args.seeds, args.once, Path(cfg.work_dir), CONSOLE)
    table = results_table(ablation.run())
    if is_main_process():
        CONSOLE.print(table)
        CONSOLE.print(f"{ablation.path}, ablation.csv and ablation.md beside it")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main, again="run the command again to go on"))
