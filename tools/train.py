"""Train a built-in model: its library's own training, as mmdet's ``tools/train.py`` runs it.

Usage: ``python tools/train.py CONFIG [--work-dir D] [--resume] [--cfg-options …]``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from psaq_mm.cli import import_host, run_tool
from psaq_mm.utils.config_lookup import find_config


def main() -> int:
    """Build mmengine's runner from the config and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="by path or by name")
    parser.add_argument("--work-dir", help="default: work_dirs/NAME-OF-THE-CONFIG")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the work dir")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={}, help="key=value, as in mmdet")
    args = parser.parse_args()
    config = find_config(args.config)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(args.cfg_options)
    import_host(cfg)
    cfg.work_dir = args.work_dir or str(Path("work_dirs") / config.stem)
    cfg.resume = args.resume
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    runner.train()
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main, again="go on with --resume"))
