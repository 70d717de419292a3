"""Run the configs that mmdet, mmseg and mmpretrain ship through the package, and write results/zoo.json.

Configs whose models are structurally equal are one group, of which one config is run. Each run has random weights,
small images, and a process of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psaq_mm.cli import run_tool
from psaq_mm.compat import DISTRIBUTIONS
from psaq_mm.models import HOSTS

from .configs import configs_folder, find_configs
from .groups import grouped
from .kinds import KINDS
from .process import import_libraries, run_apart
from .record import ZooRecord, enter, read_zoo, update, was_run
from .stages import Stages
from .table import summary

NEEDS = {"language": "needs a text model's files: not run here"}


def main() -> int:
    """Parse and call."""
    parser = argparse.ArgumentParser(prog="python -m dev.zoo", description=__doc__)
    parser.add_argument("--library", choices=HOSTS, nargs="+", default=list(HOSTS), help="libraries (default: all)")
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=list(KINDS), help="kinds of backbones")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="groups of whose configs, backbone or "
                        "model one contains one of these texts")  # fmt: skip
    parser.add_argument("--text-models", action="store_true", help="also run models with a text branch, whose "
                        "files have to be there")  # fmt: skip
    parser.add_argument("--bert", type=Path, metavar="DIR", help="a folder that stands for bert-base-uncased: runs "
                        "models with a text branch")  # fmt: skip
    parser.add_argument("--representatives", action="store_true", help="one group for each combination of classes")
    parser.add_argument("--limit", type=int, help="at most so many runs")
    parser.add_argument("--float-only", action="store_true", help="build and infer the float models only")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--again", action="store_true", help="also run groups that the record has")
    again.add_argument("--failed", action="store_true", help="also run groups that failed")
    parser.add_argument("--cycles", type=int, default=0, help="teacher-student cycles of one step (default: 0)")
    parser.add_argument("--seconds", type=float, default=300, help="limit of the CPU time of a run")
    parser.add_argument("--memory", type=float, default=8, help="memory limit of a run in GiB (0: none)")
    parser.add_argument("-o", "--out", type=Path, default=Path("results/zoo.json"), help="the record")
    parser.add_argument("--scan", action="store_true", help="read all configs again: for changed rules of grouping; "
                        "for other versions of the libraries it is done anyway")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the groups that would be run, and run none")
    parser.add_argument("--summary", action="store_true", help="print a summary of the record, and run none")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    record = read_zoo(args.out)
    if args.summary:
        print(summary(record))
        return 0
    import_libraries()
    if args.scan or record.versions != versions() or not set(args.library) <= set(record.others):
        configs = list(find_configs(tuple(args.library)))
        update(record, configs, grouped(configs))
        record.versions = versions()
        record.save(args.out)
    chosen = choose(record, args)
    print(f"{len(record.rows)} groups, {len(chosen)} to run", flush=True)
    if args.list:
        print("\n".join(f"{row['library']} {row['config']} ({len(row['covers'])})" for row in chosen))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which also ends the process of a run
    for number, row in enumerate(chosen, 1):
        enter(row, run_row(row, args))
        record.save(args.out)
        print(f"{number}/{len(chosen)} {line(row)}", flush=True)
    record.save(args.out)
    print(summary(record))
    return 0


def choose(record: ZooRecord, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the groups that a command line asks for and that are to be run."""
    rows = [row for row in record.rows if row["library"] in args.library and row["kind"] in args.kind]
    if args.representatives:
        rows = [row for row in rows if row["representative"]]
    if args.only:
        rows = [row for row in rows if any(text in name for text in args.only for name in names_of(row))]
    if not args.again:
        rows = [row for row in rows if is_due(row, args.failed, args.float_only)]
    return rows[: args.limit]


def names_of(row: dict[str, Any]) -> list[str]:
    """The names by which a row is found."""
    return [*row["covers"], row["backbone"], row["model"]]


def is_due(row: dict[str, Any], failed: bool, float_only: bool) -> bool:
    """Whether a row is still to be run.

    Args:
        row: A row.
        failed: Whether rows that failed are due again.
        float_only: Whether only the float model is wanted.
    """
    if not was_run(row):
        return True
    if row.get("error"):
        return failed
    return row.get("passed") == "infer_float" and not float_only


def run_row(row: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Run the config of a row, unless it needs what is not there."""
    if row["needs"] and not (args.text_models or args.bert):
        return {"stage": "", "error": NEEDS[row["needs"]], "seconds": 0.0}
    work: Callable[[Any], None] = partial(
        start,
        library=row["library"],
        config=row["config"],
        quantized=not args.float_only,
        cycles=args.cycles,
        bert=args.bert.resolve() if args.bert else None,
    )
    return run_apart(work, args.seconds, args.memory)


def start(tell: Any, library: str, config: str, quantized: bool, cycles: int, bert: Path | None = None) -> None:
    """Run the stages, in the process of the run.

    Configs name others, such as that of a teacher, by paths below the folder of the library.
    """
    os.chdir(configs_folder(library).parent)
    Stages(library, config, tell, bert).run(quantized, cycles)


def line(row: dict[str, Any]) -> str:
    """A row in one line, for the terminal."""
    head = f"{row['library']} {row['config']} ({len(row['covers'])}): "
    if row.get("error"):
        return f"{head}{row['stage']}: {row['error']} [{row['seconds']} s]"
    products = "{}/{} products".format(*row["products"]) if "products" in row else ""
    return f"{head}ok, {products} {row.get('difference', '')} at {row.get('size')} [{row['seconds']} s]"


def versions() -> dict[str, str]:
    """The versions of the libraries."""
    found = {}
    for library in HOSTS:
        for name in DISTRIBUTIONS[library]:
            try:
                found[library] = version(name)
                break
            except PackageNotFoundError:
                continue
    return found


if __name__ == "__main__":
    sys.exit(run_tool(main))
