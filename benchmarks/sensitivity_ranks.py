"""Rank correlation of two analyses of one model, such as on generated and on real images.

    python tools/analyze.py CONFIG --bits w4a4 --widths 4 --scores gauss_newton hessian_trace --work-dir A
    python tools/analyze.py CONFIG --bits w4a4 --widths 4 --source real --work-dir B
    python -m benchmarks.sensitivity_ranks NAME A/sensitivity.json B/sensitivity.json -o results/sensitivity_ranks.json

Spearman's coefficient over all tensors of a width, and over weights and activations apart: of the logits and of the
features of both analyses, and of each score of the first with the features of the second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from psaq_mm.analysis.sensitivity import Sensitivity, score_values
from psaq_mm.cli import CONSOLE, run_tool
from psaq_mm.engine.analysis.table import SensitivityTable, kind_of
from psaq_mm.errors import UsageError
from psaq_mm.utils.atomic_files import save_json, writable_file
from psaq_mm.utils.records import merge_record, read_record
from psaq_mm.visualization.record_tables import record_markdown

TOOL = "sensitivity_ranks"
MEASURED = ("logits", "features")


def correlations(name: str, first: SensitivityTable, second: SensitivityTable) -> Iterator[dict[str, Any]]:
    """A row for each width and kind of tensors.

    ``logits`` and ``features`` are the correlations of each with itself, ``with_features`` those of the first analysis'
    scores with the second's ``features``: how well a score tells what would be measured on the other images.
    ``seconds`` are those of the first analysis, of the forward ``passes`` for these tensors and of all ``scores``.

    Args:
        name: The model's name in the record.
        first: An analysis.
        second: Another one.

    Raises:
        UsageError: The analyses have no rows in common.
    """
    rows = {(*row.key, row.bits): row for row in second.rows}
    pairs = [(row, rows[key]) for row in first.rows if (key := (*row.key, row.bits)) in rows]
    if not pairs:
        raise UsageError("the two analyses have no tensor and width in common: analyze the same model")
    for bits in sorted({one.bits for one, _ in pairs}, reverse=True):
        for part in ("all", "weights", "activations"):
            found = [pair for pair in pairs if pair[0].bits == bits and part in ("all", kind_of(pair[0].tensor))]
            if len(found) < 3:
                continue
            row: dict[str, Any] = {
                "model": name,
                "bits": f"{bits}",
                "size": "x".join(map(str, first.size)),
                "part": part,
                "settings": "W{}A{}".format(*first.bits),
                "sources": [f"{one.count} {one.source}" for one in (first, second)],
                "tensors": len(found),
            }
            mine, others = zip(*found, strict=True)
            for score in MEASURED:
                row[score] = rank_correlation(mine, score, others, score)
            named = dict.fromkeys(("logits", *(score for one in mine for score in one.scores)))
            row["with_features"] = {score: rank_correlation(mine, score, others, "features") for score in named}
            row["seconds"] = {
                "passes": total(one.seconds for one in mine),
                # The passes behind these scores are the same for some tensors and for all.
                "scores": total(one.scores_seconds for one in first.rows if one.bits == bits),
            }
            yield row


def rank_correlation(
    first: Sequence[Sensitivity], score: str, second: Sequence[Sensitivity], other: str
) -> float | None:
    """Spearman's coefficient of a score of some tensors with another score of the same tensors.

    Returns:
        None if a tensor lacks one of them, or if one is the same for all tensors, which have no order then.
    """
    values = [score_values(rows, name) for rows, name in ((first, score), (second, other))]
    if any(None in one or len(set(one)) == 1 for one in values):
        return None
    return round(float(spearmanr(*values).statistic), 4)


def total(seconds: Iterable[float | None]) -> float | None:
    """The sum of times; None if one is not known."""
    found = list(seconds)
    return None if None in found else round(sum(one for one in found if one is not None), 3)


def main() -> int:
    """Parse, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the rows call the model")
    parser.add_argument("first", type=Path, help="sensitivity.json")
    parser.add_argument("second", type=Path, help="sensitivity.json of another analysis of this model")
    parser.add_argument("-o", "--out", type=Path, default=Path("sensitivity_ranks.json"))
    args = parser.parse_args()
    record = read_record(writable_file(args.out), TOOL)
    rows = correlations(args.name, SensitivityTable.load(args.first), SensitivityTable.load(args.second))
    record = merge_record(record, {"rows": list(rows)})
    save_json(record, args.out)
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
