"""Time a recipe's generation: the entropy against its dense forms, generator steps against bare passes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.generation_benchmark import GenerationBenchmark
from benchmarks.timing import cpu, threads
from psaq_mm.cli import CONSOLE, benchmark_arguments, positive, read_config, run_tool
from psaq_mm.engine.builder import build_pair
from psaq_mm.engine.recipe import recipe_of
from psaq_mm.models import backbone_of, check_image_size
from psaq_mm.utils.atomic_files import save_json, writable_file
from psaq_mm.utils.records import merge_record, read_record
from psaq_mm.visualization.record_tables import record_markdown


def main() -> int:
    """Parse, build, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    benchmark_arguments(parser, "generation_benchmark.json")
    parser.add_argument("--batch", type=positive, default=8, help="images (default: 8)")
    parser.add_argument("--loss-rounds", type=positive, default=5, help="of the entropy alone (default: 5)")
    parser.add_argument("--step-rounds", type=positive, default=15, help="generator steps (default: 15)")
    args = parser.parse_args()
    record = read_record(writable_file(args.out), "benchmark_generation", cpu=cpu(), threads=args.threads)
    cfg = read_config(args)
    teacher, student = build_pair(cfg, args.random)
    height, width = args.size
    check_image_size(backbone_of(teacher)[1], (height, width))
    name = args.name or Path(args.config).stem
    with CONSOLE.status("timing"), threads(args.threads):
        benchmark = GenerationBenchmark(name, teacher, student, (height, width), args.batch, recipe_of(cfg))
        found = benchmark.run(args.loss_rounds, args.step_rounds)
    record = merge_record(record, found)
    save_json(record, args.out)
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    CONSOLE.print(f"{args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
