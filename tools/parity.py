"""Compare a deployed model with the simulation: the outputs of its files, and the host's evaluator on the test set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psaq_mm.cli import CONSOLE, positive, read_config, run_tool, sizes_argument, sizes_of
from psaq_mm.deployment import ENGINES
from psaq_mm.deployment.artifact import PARTS, Artifact
from psaq_mm.engine.parity import check_parity
from psaq_mm.utils.atomic_files import save_json, writable_file
from psaq_mm.utils.records import merge_record, read_record
from psaq_mm.visualization.record_tables import record_markdown


def main() -> int:
    """Parse, open, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="quantized.py of a work dir")
    parser.add_argument("checkpoint", type=Path, help="quantized.pth of a work dir")
    sizes_argument(parser)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--part", choices=PARTS, default="backbone", help="what is exported (default: backbone)")
    parser.add_argument("--images", type=positive, default=8, help="whose outputs are compared (default: 8)")
    parser.add_argument("--name", help="what the rows call the model (default: its checkpoint's folder)")
    parser.add_argument("-o", "--out", type=Path, default=Path("parity.json"), help="a record, old rows are kept")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args(namespace=argparse.Namespace(cfg_options={}, work_dir=None))
    record = read_record(writable_file(args.out), "parity")
    artifact = Artifact(read_config(args), args.checkpoint)
    name = args.name or args.checkpoint.resolve().parent.name
    rows = check_parity(name, artifact, args.checkpoint, sizes_of(args), args.engines, args.images, args.part)
    record = merge_record(record, {"rows": list(rows)})
    save_json(record, args.out)
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    CONSOLE.print(f"{args.out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
