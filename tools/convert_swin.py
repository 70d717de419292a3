"""Convert a detector or segmentor that the Swin authors released to the names of mmdet 3.x and mmseg 1.x."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from psaq_mm.cli import CONSOLE, run_tool
from psaq_mm.errors import UsageError
from psaq_mm.models import convert_authors_swin
from psaq_mm.models.checkpoint import read_checkpoint
from psaq_mm.utils.atomic_files import save_tensors, writable_file


def is_plain(value: Any) -> bool:
    """Whether a value is made of Python's own numbers, texts and containers, which every torch loads safely."""
    if isinstance(value, dict):
        return all(is_plain(one) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple)):
        return all(is_plain(one) for one in value)
    return value is None or type(value) in (bool, int, float, str)


def main() -> int:
    """Read, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN", help="the authors' file")
    parser.add_argument("target", type=Path, metavar="OUT", help="where the converted one goes")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    if args.target.exists() and args.source.exists() and args.target.samefile(args.source):
        raise UsageError(f"OUT is IN, {args.source}: give another OUT, so that the original stays")
    loaded = read_checkpoint(args.source, hint="give the path of a file that the Swin authors released")
    state = convert_authors_swin(loaded["state_dict"], str(args.source))
    writable_file(args.target)
    meta = {key: value for key, value in loaded["meta"].items() if is_plain(value)}
    save_tensors({"meta": meta, "state_dict": state}, args.target)
    backbone = sum(key.startswith("backbone.") for key in state)
    merged = sum(key.endswith(".downsample.reduction.weight") for key in state)
    CONSOLE.print(
        f"{args.target}: {backbone} tensors of the backbone renamed and {merged} patch mergings reordered, "
        f"{len(state) - backbone} others kept",
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
