"""Expected against measured losses of the records of tools/ablate.py, and the curves behind the expected ones.

    python -m benchmarks.expected_loss results/*.json results/expected_loss/*.json -o results/expected_loss.json \\
        --chart docs/expected_loss.png

A point is a row that was calibrated on generated images and compared with the float model on crops of them
(``closeness``). A curve for each figure and distance is fitted to the points of all models; ``held_out`` is what a
curve fitted to all other models expects, and the error bar is that of these expectations. Curves are ordered by it.
psaq_mm/analysis/expected.py has them (``CURVES``).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from psaq_mm.analysis.expected import FLOOR, LossCurve, fit, held_out, log_spread
from psaq_mm.cli import CONSOLE, run_tool
from psaq_mm.errors import UsageError
from psaq_mm.utils.atomic_files import replacing, save_json, writable_file
from psaq_mm.utils.metrics import METRICS
from psaq_mm.visualization.record_tables import record_markdown

TOOL = "expected_loss"
FIGURES = ("top1", "mIoU", "bbox_mAP", "segm_mAP")
DISTANCES = ("logits", "features")
ARM = "psaq-calib"
# Records whose truth is the float model's own output. Any difference from it counts as a loss there, while against
# labels gains make up for most losses: their points are judged by the curve of the others.
OWN_TRUTH = ("dinov2_saliency",)
# A curve with a larger error bar, as a factor, says nothing.
MOST = 4.0
# What counts as right: within this factor, or within these points.
FACTOR, POINTS = 1.5, 0.3
MARKS = "osD^vP*Xhd<>p"


def points(path: Path) -> Iterator[dict[str, Any]]:
    """The points of a record: a row for each figure and distance."""
    record = json.loads(path.read_text())
    reference = next((row["metrics"] for row in record.get("rows", []) if row.get("arm") == "fp32"), {})
    for row in record.get("rows", []):
        if row.get("arm") != ARM:
            continue
        for key, before in reference.items():
            figure = key.rpartition("/")[2]
            for distance in DISTANCES:
                if figure in FIGURES and before and distance in row.get("closeness", {}):
                    scale = 100 if figure.endswith("mAP") else 1
                    yield {
                        "model": path.stem,
                        "bits": f"W{row['weight_bits']}A{row['activation_bits']}",
                        "seed": row["seed"],
                        "figure": figure,
                        "distance": distance,
                        "value": row["closeness"][distance],
                        "float": round(scale * before, 4),
                        "lost": round(scale * (before - row["metrics"][key]), 4),
                    }


def fitted(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The points with their expected losses, and the curves by figure, that with the least spread first."""
    done: list[dict[str, Any]] = []
    curves: dict[str, list[LossCurve]] = {}
    for figure in FIGURES:
        for distance in DISTANCES:
            chosen = [row for row in rows if (row["figure"], row["distance"]) == (figure, distance)]
            groups: dict[str, list[tuple[float, float]]] = {}
            for row in chosen:
                if row["model"] not in OWN_TRUTH:
                    groups.setdefault(row["model"], []).append((row["value"], row["lost"] / row["float"]))
            if len(groups) < 2:
                continue
            curve = fit(distance, [point for group in groups.values() for point in group])
            others = held_out(distance, groups)
            pairs = [(one[1], share) for name in groups for one, share in zip(groups[name], others[name], strict=True)]
            # The error bar is that for a model which the curve does not know.
            curve = replace(curve, spread=log_spread(pairs))
            if math.exp(curve.spread) > MOST:
                continue
            curves.setdefault(figure, []).append(curve)
            apart = {name: iter(shares) for name, shares in others.items()}
            for row in chosen:
                expected = curve.share(row["value"])
                other = expected if row["model"] in OWN_TRUTH else next(apart[row["model"]])
                shares = {"expected": expected, "held_out": other}
                done.append({**row, **{key: round(row["float"] * share, 4) for key, share in shares.items()}})
    return done, {figure: [rounded(one) for one in sorted(found, key=spread)] for figure, found in curves.items()}


def spread(curve: LossCurve) -> float:
    """The spread of a curve."""
    return curve.spread


def rounded(curve: LossCurve) -> dict[str, Any]:
    """A curve for JSON, with four significant digits."""
    return {key: value if isinstance(value, str) else float(f"{value:.4g}") for key, value in asdict(curve).items()}


def right(row: dict[str, Any], which: str) -> bool:
    """Whether a measured loss is within :data:`FACTOR` or :data:`POINTS` of the expected one."""
    expected, lost = row[which], row["lost"]
    return abs(expected - lost) <= POINTS or (lost > 0 and max(expected / lost, lost / expected) <= FACTOR)


def summary(rows: Iterable[dict[str, Any]], curves: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each figure and model, how many measured losses are where the first curve of the figure expects them."""
    rows = list(rows)
    found = []
    for figure, fits in curves.items():
        best = [row for row in rows if (row["figure"], row["distance"]) == (figure, fits[0]["distance"])]
        for model in dict.fromkeys(row["model"] for row in best):
            own = [row for row in best if row["model"] == model]
            found.append(
                {
                    "figure": figure,
                    "model": model,
                    "fitted": model not in OWN_TRUTH,
                    "points": len(own),
                    "right": sum(right(row, "expected") for row in own),
                    "right_held_out": sum(right(row, "held_out") for row in own),
                }
            )
    return found


def noise(rows: Iterable[dict[str, Any]], curves: dict[str, list[dict[str, Any]]]) -> float:
    """The root mean square of measured minus expected losses, as shares, where less than ``FLOOR`` is expected."""
    apart = [
        (row["lost"] - row["expected"]) / row["float"]
        for row in rows
        if row["model"] not in OWN_TRUTH
        and row["figure"] in curves
        and row["distance"] == curves[row["figure"]][0]["distance"]
        and row["expected"] / row["float"] < FLOOR
    ]
    return round(math.sqrt(sum(one**2 for one in apart) / len(apart)), 4) if apart else 0.0


def chart(rows: list[dict[str, Any]], curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw expected against measured losses in points, by the first curve of each figure.

    Args:
        rows: The points with their expected losses.
        curves: The curves.
        path: A PNG file.
    """
    picture = Figure(figsize=(9, 7.4), layout="constrained")
    models = list(dict.fromkeys(row["model"] for row in rows))
    for place, figure in enumerate(curves, 1):
        axes = picture.add_subplot(2, 2, place)
        ends = (0.03, 100.0)
        line = np.geomspace(*ends, 200)
        low, high = np.minimum(line / FACTOR, line - POINTS), np.maximum(line * FACTOR, line + POINTS)
        axes.fill_between(line, np.maximum(low, ends[0]), high, color="0.9")
        axes.plot(ends, ends, color="0.5", linewidth=1)
        for number, model in enumerate(models):
            own = [
                row
                for row in rows
                if (row["model"], row["figure"], row["distance"]) == (model, figure, curves[figure][0]["distance"])
            ]
            if own:
                axes.scatter(
                    [max(row["expected"], ends[0]) for row in own],
                    [max(row["lost"], ends[0]) for row in own],
                    marker=MARKS[number % len(MARKS)],
                    s=22,
                    label=model,
                )
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=METRICS[figure].title)
        axes.set(xlabel="expected loss, points", ylabel="measured loss, points")
        axes.legend(fontsize=7)
    with replacing(path) as scratch:
        picture.savefig(scratch, format="png", dpi=110)


def main() -> int:
    """Parse, fit, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, help="results/*.json; other records are left out")
    parser.add_argument("-o", "--out", type=Path, default=Path("expected_loss.json"))
    parser.add_argument("--chart", type=Path, help="a PNG of all points")
    args = parser.parse_args()
    out = writable_file(args.out)
    rows, curves = fitted([row for path in args.records if path != args.out for row in points(path)])
    if not curves:
        raise UsageError("the records have no two models with a closeness: run tools/ablate.py on two recipes")
    record = {"tool": TOOL, "curves": curves, "noise": noise(rows, curves), "summary": summary(rows, curves)}
    record["rows"] = rows
    save_json(record, out)
    if args.chart:
        chart(rows, curves, writable_file(args.chart))
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
