"""The most sensitive tensors of a model as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..analysis.sensitivity import Sensitivity, score_values


def worst_table(rows: Sequence[Sensitivity], score: str, count: int = 10) -> Table:
    """The tensors with the largest sensitivity at the smallest width, with that at every width.

    Args:
        rows: The sensitivities.
        score: See :func:`psaq_mm.analysis.sensitivity.score_values`.
        count: Number of tensors.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row, value in zip(rows, score_values(rows, score), strict=True):
        found.setdefault(row.key, {})[row.bits] = value or 0.0
    widths = sorted({row.bits for row in rows}, reverse=True)
    table = Table(title=f"the most sensitive tensors, each quantized alone: {score}")
    table.add_column("layer", overflow="fold")
    table.add_column("tensor")
    for width in widths:
        table.add_column(f"{width} bits", justify="right")
    ranked = sorted(found.items(), key=lambda item: -max(item[1].values()))
    for (layer, tensor), values in ranked[:count]:
        table.add_row(layer, tensor, *(f"{values[width]:.2e}" if width in values else "-" for width in widths))
    return table
