"""Run the rows of the paper's table whose data and checkpoints are there, and write it; goes on when called again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import DictAction

from psaq_mm.cli import CONSOLE, run_tool
from psaq_mm.engine.paper import PaperTable, check_inputs, chosen_models
from psaq_mm.errors import PSAQError


def main() -> int:
    """Parse, check, call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, metavar="DIR", help="folder of annotations/ and val2017/")
    parser.add_argument(
        "--ade20k", type=Path, metavar="DIR", help="ADEChallengeData2016, with images/ and annotations/"
    )
    parser.add_argument(
        "--imagenet", type=Path, metavar="DIR", help="folder of val/ and, if val/ has no folders, meta/"
    )
    parser.add_argument("--checkpoints", type=Path, metavar="DIR", default=Path("checkpoints"))
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="NAME", help="recipes, with or without their bits, also with *"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--gpus", type=int, default=min(1, torch.cuda.device_count()), help="GPUs for each row")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/paper_table"), help="folder for the results")
    parser.add_argument("--check", action="store_true", help="check and estimate the time, then stop")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value, for all rows: not the paper's table"
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    models = chosen_models(args.rows)
    folders = {model.dataset.option: getattr(args, model.dataset.option) for model in models}
    inputs = check_inputs(models, folders, args.checkpoints, args.cfg_options)
    for line in inputs.skipped:
        CONSOLE.print(f"skipped: {line}", highlight=False, markup=False, soft_wrap=True)
    for line in inputs.missing:
        CONSOLE.print(f"missing: {line}", highlight=False, markup=False, soft_wrap=True)
    if inputs.missing:
        raise PSAQError(
            f"what is missing or broken is listed above ({len(inputs.missing)}): get it, or choose rows with --rows"
        )
    table = PaperTable(models, inputs, args.seeds, args.gpus, args.work_dir, CONSOLE)
    seconds = table.estimate()
    table.announce(seconds)
    if not args.check:
        path = table.run(seconds)
        CONSOLE.print(path.read_text(encoding="utf-8"), highlight=False, markup=False, soft_wrap=True)
        CONSOLE.print(f"{path}, .json and .csv beside it", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main, again="run the command again to go on"))
