"""Measure how far the outputs move when one tensor alone is quantized; choose bits for a budget."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psaq_mm.analysis.budget import Allocation, Budget
from psaq_mm.analysis.scores import SCORES
from psaq_mm.analysis.sensitivity import OUTPUTS
from psaq_mm.cli import CONSOLE, common_arguments, positive, read_config, run_tool
from psaq_mm.deployment import ENGINES
from psaq_mm.engine.analysis.mixed import mixed_recipe, save_recipe
from psaq_mm.engine.analysis.sensitivity import SOURCES, TENSORS, SensitivityRun
from psaq_mm.engine.analysis.table import checked_widths
from psaq_mm.engine.recipe import parse_bits, recipe_of
from psaq_mm.errors import PSAQError
from psaq_mm.report import rewrite_report
from psaq_mm.visualization.sensitivity import worst_table


def main() -> int:
    """Parse, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    common_arguments(parser)
    parser.add_argument(
        "--bits", metavar="wXaY", help="measure with the settings of this width (default: the recipe's)"
    )
    parser.add_argument("--widths", nargs="+", type=int, default=[8, 6, 4, 3], help="bits (default: 8 6 4 3)")
    parser.add_argument("--images", type=positive, default=4, help="to compare outputs on (default: 4)")
    parser.add_argument("--source", choices=SOURCES, default="generated", help="of the images (default: generated)")
    parser.add_argument("--tensors", choices=TENSORS, default="all", help="which are measured (default: all)")
    parser.add_argument(
        "--budget", metavar="KIND=SHARE", help="size=0.125, bops=0.03 or latency=0.5, of FP32: writes mixed.py"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, help=f"time the layers in it; a budget of latency does (default: {ENGINES[0]})"
    )
    parser.add_argument("--scores", nargs="+", choices=SCORES.names, default=[], help="further scores, from gradients")
    parser.add_argument(
        "--score",
        choices=[OUTPUTS, "features", "logits", *SCORES.names],
        default=OUTPUTS,
        help="to sort and to choose bits by (default: outputs, the sum of features and logits)",
    )
    args = parser.parse_args()
    budget = Budget.parse(args.budget) if args.budget else None
    if budget is not None:
        budget.check(checked_widths(args.widths), args.tensors)
    scores = [*dict.fromkeys([*args.scores, *({args.score} & set(SCORES.names))])]
    latency = budget is not None and budget.kind == "latency"
    cfg = read_config(args)
    if args.bits:
        cfg.dfq = recipe_of(cfg, parse_bits(args.bits))
    run = SensitivityRun(
        cfg,
        args.widths,
        Path(cfg.work_dir),
        args.images,
        source=args.source,
        tensors=args.tensors,
        scores=scores,
        engine=args.engine or (ENGINES[0] if latency else None),
    )
    table = run.run()
    CONSOLE.print(worst_table(table.rows, args.score))
    CONSOLE.print(f"{len(table.rows)} rows: {run.path}, .csv beside it", soft_wrap=True, highlight=False)
    try:
        if page := rewrite_report(run.folder):
            CONSOLE.print(f"in the report: {page}", soft_wrap=True, highlight=False)
    except PSAQError as error:  # of an older run in this folder
        CONSOLE.print(f"the report was not written again: {error}", soft_wrap=True, highlight=False)
    if budget is not None:
        chosen = table.allocate(budget, args.score, args.widths, run.engine)
        path = run.folder / "mixed.py"
        save_recipe(mixed_recipe(cfg, chosen.overrides(table.recipe_bits)), path)
        if latency:
            CONSOLE.print(timed(chosen, run.engine), soft_wrap=True, highlight=False)
        CONSOLE.print(f"{budget.kind} {chosen.share:.4f} of FP32: {path}", soft_wrap=True, highlight=False)
    return 0


def timed(chosen: Allocation, engine: str | None) -> str:
    """The predicted time of the layers, and how many stay in floating point."""
    kept, quantized = (chosen.layers(floating) for floating in (True, False))
    return (
        f"{len(kept)} of {len(kept) + len(quantized)} layers stay in floating point; predicted in {engine}: "
        f"{1e3 * chosen.cost:.3f} of {1e3 * chosen.whole:.3f} ms in these layers"
    )


if __name__ == "__main__":
    sys.exit(run_tool(main, again="run the command again to go on"))
