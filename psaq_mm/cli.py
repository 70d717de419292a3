"""What the command lines share: reading configs, and errors in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from rich.console import Console

from .compat import DISTRIBUTIONS, import_quietly
from .errors import PSAQError, UsageError
from .models import HOSTS, named
from .utils.config_lookup import find_config, find_file
from .utils.termination import Terminated

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


def import_host(cfg: Config) -> None:
    """Import the libraries whose models a config speaks of, and none of the others: each takes seconds.

    Raises:
        PSAQError: One of them is not installed, or does not fit the rest.
    """
    scope, parts = cfg.get("default_scope"), foreign_parts(cfg.get("model"))
    if scope in HOSTS:
        parts = {scope: "its default_scope", **parts}
    for library, part in parts.items():
        if find_spec(library) is None:
            names = " or ".join(DISTRIBUTIONS[library])
            raise PSAQError(f"the config needs {library} ({part}), which is not installed: pip install {names}")
        wanted = ("datasets", "evaluation", "visualization") if library == scope else ("models",)
        try:
            import_quietly(*(f"{library}.{one}" for one in wanted))
        except (ImportError, AssertionError) as error:  # they assert that mmcv's version is one they know
            raise PSAQError(f"the config needs {library} ({part}), which cannot be imported ({error})") from None


def foreign_parts(model: Any) -> dict[str, str]:
    """The libraries that a model's parts name (``type='mmseg.Feature2Pyramid'``), each with the first such type."""
    found: dict[str, str] = {}
    if isinstance(model, dict):
        kind = named(model.get("type") or "")
        if (library := kind.partition(".")[0]) in HOSTS:
            found[library] = kind
        model = list(model.values())
    for part in model if isinstance(model, (list, tuple)) else ():
        found = {**foreign_parts(part), **found}
    return found


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
        raise UsageError(f"the config {args.config} cannot be read ({error}): correct it") from None
    import_host(cfg)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / path.stem)
    if args.checkpoint:
        cfg.load_from = args.checkpoint
    if cfg.get("load_from") and "://" not in str(cfg.load_from):
        cfg.load_from = str(find_file(cfg.load_from))
    return cfg


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
