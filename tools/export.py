"""Export a quantized model for an integer engine: ONNX with Q/DQ pairs, or OpenVINO."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psaq_mm.cli import CONSOLE, positive, read_config, run_tool, sizes_argument, sizes_of
from psaq_mm.deployment import DEFAULT_OPSET, STORAGE
from psaq_mm.deployment.artifact import PARTS, Artifact
from psaq_mm.deployment.export import FORMATS, export
from psaq_mm.utils.atomic_files import writable_file


def main() -> int:
    """Parse, open, export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="quantized.py of a work dir")
    parser.add_argument("checkpoint", help="quantized.pth of a work dir")
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    sizes_argument(parser)
    parser.add_argument("--batch", type=positive, default=1, help="images in a batch (default: 1)")
    parser.add_argument(
        "--part",
        choices=PARTS,
        default="backbone",
        help="model: all but the host's own code between the graphs, such as NMS and RoIAlign (default: backbone)",
    )
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help=f"of ONNX (default: {DEFAULT_OPSET})")
    parser.add_argument(
        "--weights",
        choices=STORAGE,
        default="int8",
        help="how 4-bit weights are stored: int8 is fast, int4 half as large but multiplied in float (default: int8)",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="NAME.onnx or NAME.xml")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args(namespace=argparse.Namespace(cfg_options={}, work_dir=None))
    writable_file(args.out)
    artifact = Artifact(read_config(args), args.checkpoint)
    options = args.batch, args.part, args.opset, args.weights
    for path in export(artifact, args.out, args.format, sizes_of(args), *options):
        CONSOLE.print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
