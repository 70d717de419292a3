"""What the command lines share: reading configs, and errors in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction
from rich.console import Console

from .engine.preparation import import_host, open_config
from .errors import PSAQError
from .utils.termination import Terminated

__all__ = [
    "CONSOLE",
    "benchmark_arguments",
    "common_arguments",
    "import_host",
    "positive",
    "read_config",
    "run_tool",
]

CONSOLE = Console()


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool understands."""
    parser.add_argument("config", help="a recipe: a host's config with a dfq section, by path or by name")
    parser.add_argument("--checkpoint", help="the float checkpoint (default: load_from of the config)")
    parser.add_argument("--work-dir", help="where results go (default: work_dirs/NAME-OF-THE-CONFIG)")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value, as in mmdet's tools"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")


def benchmark_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the options that the benchmarks share."""
    common_arguments(parser)
    parser.add_argument("--size", type=int, nargs=2, required=True, metavar=("H", "W"), help="of the images")
    parser.add_argument("--random", action="store_true", help="random weights: no checkpoint is needed")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=positive, default=cores, help="default: the cores that the process may use")
    parser.add_argument("--name", help="what the rows call the model (default: the config's name)")
    parser.add_argument("-o", "--out", type=Path, default=Path(out), help="a record, old rows are kept")


def positive(text: str) -> int:
    """A number of things on a command line, at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def read_config(args: argparse.Namespace) -> Config:
    """The config that a command line names, with its options merged in.

    Raises:
        UsageError: There is no such file nor name, or it cannot be read.
        PSAQError: A library that it needs is missing.
    """
    return open_config(args.config, args.cfg_options, args.work_dir, args.checkpoint)


def run_tool(main: Callable[[], int], traceback: bool | None = None) -> int:
    """Run a tool; errors that users can correct become one line on stderr and an exit code.

    Args:
        main: The tool.
        traceback: Whether such errors show where they came from; by default, whether ``--traceback`` was given.

    Returns:
        0 for success, 2 for wrong usage, 1 for failure, 130 for an interrupt, 143 for SIGTERM.
    """
    shown = "--traceback" in sys.argv if traceback is None else traceback
    os.environ.setdefault("KMP_WARNINGS", "0")
    try:
        return main()
    except PSAQError as error:
        if shown:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except Terminated as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: go on with --resume", file=sys.stderr)
        return 130
