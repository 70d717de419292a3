"""Draw the detections of a float model and of its quantized sibling side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psaq_mm.cli import CONSOLE, run_tool
from psaq_mm.errors import UsageError
from psaq_mm.utils.atomic_files import save_with, writable_folder
from psaq_mm.visualization.detections import compare, default_device, page_paths


def main() -> int:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="the float model's config")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("artifact_config", type=Path, help="quantized.py of a work dir")
    parser.add_argument("artifact_checkpoint", type=Path, help="quantized.pth of a work dir")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    help_out = "default: detections.png; further pages go beside it, as detections-2.png"
    parser.add_argument("--out", type=Path, default=Path("detections.png"), help=help_out)
    parser.add_argument("--score-thr", type=float, default=0.5, help="draw no detection below this score")
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    if args.out.suffix.lower() not in (".png", ".jpg"):
        raise UsageError(f"--out {args.out} must end in .png or .jpg")
    writable_folder(args.out.parent)
    quantized = ("quantized", args.artifact_config, args.artifact_checkpoint)
    pages = compare([("float", args.config, args.checkpoint), quantized], args.images, args.score_thr, args.device)
    for picture, path in zip(pages, page_paths(args.out), strict=False):
        save_with(picture.save, path)
        CONSOLE.print(f"{path}: {picture.width}x{picture.height}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
