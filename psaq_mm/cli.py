"""Shared parts of the command-line tools: options, reading of configs, and one-line errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    "sizes_argument",
    "sizes_of",
]

CONSOLE = Console()


class Options(DictAction):
    """``key=value ...``, as in mmdet's tools; text without ``=`` is a usage error, not a traceback."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Add the options to the namespace."""
        if wrong := [value for value in values if "=" not in value]:
            parser.error(f"{option_string} {wrong[0]!r} has no value: write key=value")
        super().__call__(parser, namespace, values, option_string)


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all tools share."""
    parser.add_argument("config", help="a recipe (a host's config with a dfq section), by path or by name")
    parser.add_argument("--checkpoint", help="the float checkpoint (default: load_from of the config)")
    parser.add_argument("--work-dir", help="folder for the results (default: work_dirs/NAME-OF-THE-CONFIG)")
    parser.add_argument("--cfg-options", nargs="+", action=Options, default={}, help="key=value, as in mmdet's tools")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def sizes_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--size H W``, which may be given several times; :func:`sizes_of` reads it."""
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        required=True,
        action="append",
        metavar=("H", "W"),
        help="height and width of the images; several times for several sizes in one deployment",
    )


def sizes_of(args: argparse.Namespace) -> list[tuple[int, int]]:
    """The different sizes of :func:`sizes_argument`."""
    return [(height, width) for height, width in dict.fromkeys(map(tuple, args.size))]


def benchmark_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the options that all benchmarks share.

    Args:
        parser: The parser of a benchmark.
        out: Default path of its record.
    """
    common_arguments(parser)
    parser.add_argument(
        "--size", type=int, nargs=2, required=True, metavar=("H", "W"), help="height and width of the images"
    )
    parser.add_argument("--random", action="store_true", help="use random weights instead of a checkpoint")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads", type=positive, default=cores, help="CPU threads (default: all cores that the process may use)"
    )
    parser.add_argument("--name", help="name of the model in the record (default: the config's name)")
    parser.add_argument("-o", "--out", type=Path, default=Path(out), help="record file; rows of other models are kept")


def positive(text: str) -> int:
    """Parse an integer of at least 1, for argparse.

    Raises:
        ValueError: It is smaller, or not an integer.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def read_config(args: argparse.Namespace) -> Config:
    """The config that a command line names, with its options merged in.

    Raises:
        UsageError: No config has this path or name, or the config cannot be read.
        PSAQError: A library that the config needs is missing.
    """
    return open_config(args.config, args.cfg_options, args.work_dir, args.checkpoint)


def run_tool(main: Callable[[], int], traceback: bool | None = None, again: str = "") -> int:
    """Run a tool and turn errors of the package into one line on stderr and an exit code.

    Args:
        main: The tool.
        traceback: Whether to raise such errors instead; None to look for ``--traceback`` on the command line.
        again: How an interrupted run is continued, for tools that can.

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
    except (Terminated, KeyboardInterrupt) as error:
        stopped = str(error) or "interrupted"
        print(f"{stopped}: {again}" if again else stopped, file=sys.stderr)
        return error.exit_code if isinstance(error, Terminated) else 130
