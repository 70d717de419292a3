"""Time a recipe's backbone: torch, simulated quantization and every integer engine, side by side in one process."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.deployment_benchmark import DeployBenchmark
from benchmarks.timing import cpu
from psaq_mm.cli import CONSOLE, benchmark_arguments, positive, read_config, run_tool
from psaq_mm.deployment import ExportWrapper
from psaq_mm.engine.builder import build_pair
from psaq_mm.models import backbone_of
from psaq_mm.utils.atomic_files import save_json, writable_file
from psaq_mm.utils.records import merge_record, read_record
from psaq_mm.visualization.record_tables import record_markdown


def main() -> int:
    """Parse, build, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    benchmark_arguments(parser, "deploy.json")
    parser.add_argument("--rounds", type=positive, default=20, help="how often each is timed (default: 20)")
    args = parser.parse_args()
    record = read_record(writable_file(args.out), "benchmark", cpu=cpu(), threads=args.threads)
    cfg = read_config(args)
    teacher, student = (ExportWrapper(backbone_of(model)[1]) for model in build_pair(cfg, args.random))
    height, width = args.size
    with tempfile.TemporaryDirectory() as folder:
        name = args.name or Path(args.config).stem
        benchmark = DeployBenchmark(name, teacher, student, (height, width), Path(folder), args.threads)
        with CONSOLE.status("timing"):
            found = benchmark.run(args.rounds)
    record = merge_record(record, found)
    save_json(record, args.out)
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    CONSOLE.print(f"{args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
