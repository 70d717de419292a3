"""Evaluate a float, quantized or deployed model with its library's own evaluator."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from psaq_mm.cli import CONSOLE, read_config, run_tool
from psaq_mm.engine.evaluation import evaluate
from psaq_mm.utils.atomic_files import writable_folder


def main() -> int:
    """Parse, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="quantized.py, the .py beside an exported model, or a float model's config")
    parser.add_argument("checkpoint", help="the checkpoint that belongs to it")
    parser.add_argument("--work-dir", help="default: work_dirs/NAME-OF-THE-CONFIG")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value, as in mmdet's tools"
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation by the config's tta_model")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    weights, args.checkpoint = args.checkpoint, None
    cfg = read_config(args)
    for name, value in evaluate(cfg, weights, writable_folder(Path(cfg.work_dir)), args.tta).items():
        CONSOLE.print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
