"""Quantize a trained model without data and evaluate it with its own evaluators."""

from __future__ import annotations

import argparse
import os
import sys

from mmengine.dist import is_main_process

from psaq_mm.cli import CONSOLE, common_arguments, read_config, run_tool
from psaq_mm.engine.job import Job


def main() -> int:
    """Parse, build, call."""
    parser = argparse.ArgumentParser(description=__doc__)
    common_arguments(parser)
    parser.add_argument("--resume", nargs="?", const="auto", metavar="auto", help="go on from the work dir's state")
    parser.add_argument("--pictures", metavar="DIR", help="show predictions on these pictures in the report")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args)
    cfg.launcher, cfg.resume = args.launcher, args.resume is not None
    if args.pictures and cfg.get("dfq") is not None:
        cfg.dfq.pictures = args.pictures
    job = Job(cfg, CONSOLE)
    job.run()
    if is_main_process():
        CONSOLE.print(job.closing_table())
    for text in job.verdict.sentences() if job.verdict else ():
        job.say(text)
    config, checkpoint = job.runner.artifact_paths
    job.say(f"quantized model: {config} {checkpoint}")
    job.say(f"samples: {job.runner.folder / 'samples.png'}; figures: {job.path}")
    if job.report_path is not None:
        job.say(f"report: {job.report_path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main, again="go on with --resume"))
