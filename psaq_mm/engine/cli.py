"""What the command lines share: reading configs, and errors in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction
from rich.console import Console

from ..compat import import_quietly
from ..errors import PSAQError, UsageError
from ..generation import GenerationError, NonFiniteLossError
from ..quantization import QuantizationError
from .packaged import find_config, find_file

CONSOLE = Console()
HOSTS = ("mmdet", "mmseg", "mmpretrain")


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool understands."""
    parser.add_argument("config", help="a recipe: a host's config with a dfq section, by path or by name")
    parser.add_argument("--checkpoint", help="the float checkpoint (default: load_from of the config)")
    parser.add_argument("--work-dir", help="where results go (default: work_dirs/NAME-OF-THE-CONFIG)")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value, as in mmdet's tools"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")


def import_host(cfg: Config) -> None:
    """Import the library whose models a config speaks of, and none of the others: each takes seconds."""
    scope = cfg.get("default_scope")
    if scope in HOSTS:
        import_quietly(*(f"{scope}.{part}" for part in ("datasets", "evaluation", "visualization")))


def read_config(args: argparse.Namespace) -> Config:
    """The config with the command line's options merged in.

    Raises:
        UsageError: There is no such file nor name, or it does not parse.
    """
    path = find_config(args.config)
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(args.cfg_options)
    except Exception as error:  # a config is a program: anything can be wrong in it
        raise UsageError(f"the config {args.config} cannot be read ({error}): mend it") from None
    import_host(cfg)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / path.stem)
    if args.checkpoint:
        cfg.load_from = args.checkpoint
    if cfg.get("load_from"):
        cfg.load_from = str(find_file(cfg.load_from))
    return cfg


def run_tool(main: Callable[[], int], traceback: bool | None = None) -> int:
    """Run a tool; errors that users can mend become one line on stderr and an exit code.

    Args:
        main: The tool.
        traceback: Whether such errors show where they came from; by default, whether ``--traceback`` was given.

    Returns:
        0 for success, 2 for wrong usage, 1 for failure, 130 for an interrupt.
    """
    shown = "--traceback" in sys.argv if traceback is None else traceback
    os.environ.setdefault("KMP_WARNINGS", "0")
    try:
        return main()
    except (PSAQError, GenerationError, QuantizationError) as error:
        if shown:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, GenerationError):  # but for what numbers did, it speaks of settings
            return 1 if isinstance(error, NonFiniteLossError) else 2
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        print("interrupted: go on with --resume", file=sys.stderr)
        return 130
