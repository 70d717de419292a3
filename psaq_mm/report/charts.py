"""The charts of a report, as figures of plotly without colours of text and grid: the page sets those by its mode."""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from ..utils.metrics import metric_of
from .contents import Histogram, Report

# Okabe and Ito's; each has a contrast of 3 or more with the page in both modes.
BLUE, RED, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#bf5f93"
SERIES = (BLUE, RED, GREEN, PINK)
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "x")
KINDS = {"weight": "weights", "input": "inputs of layers"}
HEIGHT = 340
STAGES = {"generate": "generate images", "calibrate": "calibrate", "distill": "distill", "evaluate": "evaluate"}


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        key: Its name in the page.
        title: Text above it.
        description: What it shows, for readers who cannot see it.
        figure: Plotly's ``data`` and ``layout``.
        height: In pixels.
    """

    key: str
    title: str
    description: str
    figure: dict[str, Any]
    height: int = HEIGHT


def plain(text: str) -> str:
    """Text of which plotly, which reads some HTML, makes no markup."""
    return html.escape(str(text), quote=False)


def finished(key: str, title: str, description: str, figure: go.Figure, height: int = HEIGHT, **layout: Any) -> Chart:
    """A chart of a figure, with the margins and the legend that all charts share."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 10, "t": 30 if len(figure.data) > 1 else 10, "b": 10},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        height=height,
        dragmode=False,
        **layout,
    )
    figure.update_xaxes(automargin=True, fixedrange=True)
    figure.update_yaxes(automargin=True, fixedrange=True)
    return Chart(key, title, description, json.loads(figure.to_json()), height)


def percentages(report: Report) -> dict[str, list[float | None]]:
    """The main figures of each row in percent, by title; an AP between 0 and 1 is multiplied by 100."""
    found: dict[str, list[float | None]] = {}
    for key in dict.fromkeys(key for row in report.rows for key in row["metrics"]):
        metric = metric_of(key)
        if metric is None or key.endswith("/kl"):
            continue
        factor = 100 if metric.host == "mmdet" else 1
        values = [row["metrics"].get(key) for row in report.rows]
        if all(value is None or isinstance(value, (int, float)) for value in values):
            found[metric.title] = [None if value is None else factor * value for value in values]
    return found


def figures_chart(report: Report) -> Chart | None:
    """Bars of the main figures, float beside quantized; None without an evaluation."""
    found = percentages(report)
    if not found:
        return None
    names = [row_name(row) for row in report.rows]
    figure = go.Figure()
    for index, name in enumerate(names):
        values = [row[index] for row in found.values()]
        text = ["" if value is None else f"{value:.1f}" for value in values]
        pattern = {"shape": "" if index == 0 else "/", "fillmode": "overlay", "fgcolor": "#ffffff", "size": 7}
        figure.add_bar(
            x=list(found),
            y=values,
            name=plain(name),
            text=text,
            textposition="outside",
            cliponaxis=False,
            marker={"color": SERIES[index % len(SERIES)], "pattern": pattern},
            hovertemplate="%{x}: %{y:.2f} %<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title="per cent", range=[0, 108], tickvals=[0, 20, 40, 60, 80, 100])
    spoken = "; ".join(
        f"{name}: {', '.join('-' if v is None else f'{v:.1f}' for v in row)}" for name, row in found.items()
    )
    description = f"Bar chart in per cent of {' and '.join(names)}. {spoken}."
    return finished(
        "figures", "Main figures", description, figure, barmode="group", bargap=0.4 if len(found) > 1 else 0.7
    )


def row_name(row: dict[str, Any]) -> str:
    """``FP32`` or, for example, ``W4A8``."""
    return "FP32" if row["weight_bits"] == 32 else f"W{row['weight_bits']}A{row['activation_bits']}"


def coverage_chart(coverage: Sequence[dict[str, Any]]) -> Chart | None:
    """The SQNR of each quantized tensor over its place in the model; None if none was measured."""
    kinds = {"weight": "weights", "activation": "inputs of layers", "product": "operands of products"}
    figure = go.Figure()
    for (kind, name), colour, symbol in zip(kinds.items(), SERIES, SYMBOLS, strict=False):
        rows = [
            (place, row) for place, row in enumerate(coverage, 1) if row["kind"] == kind and row["sqnr"] is not None
        ]
        if rows:
            figure.add_scatter(
                x=[place for place, _ in rows],
                y=[round(row["sqnr"], 2) for _, row in rows],
                text=[f"{plain(row['name'])}, {row['bits']} bits" for _, row in rows],
                name=name,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 7},
                hovertemplate="%{text}<br>%{y:.1f} dB<extra></extra>",
            )
    if not figure.data:
        return None
    known = [row["sqnr"] for row in coverage if row["sqnr"] is not None]
    figure.update_xaxes(title="tensor, in the order of the model")
    figure.update_yaxes(title="SQNR in dB")
    text = f"Scatter chart of {len(known)} tensors, from {min(known):.1f} to {max(known):.1f} dB."
    return finished("coverage", "Signal-to-quantization-noise ratio over depth", text, figure)


def sensitivity_chart(record: dict[str, Any], measure: str) -> Chart | None:
    """The error by a single quantized tensor over its place in the model, one line for each kind and bit width.

    Args:
        record: ``sensitivity.json``.
        measure: ``'features'`` or ``'logits'``.

    Returns:
        None if no row has this measure.
    """
    rows = [row for row in record["rows"] if row.get(measure) is not None]
    if not rows:
        return None
    names = list(dict.fromkeys(row["layer"] for row in rows))
    places = {name: place for place, name in enumerate(names, 1)}
    series: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        kind = KINDS.get(row["tensor"], "operands of products")
        series.setdefault((row["bits"], kind), []).append(row)
    figure = go.Figure()
    bits = sorted({row["bits"] for row in rows})
    for bit, kind in itertools.product(bits, dict.fromkeys([*KINDS.values(), "operands of products"])):
        found = series.get((bit, kind))
        if not found:
            continue
        colour = SERIES[bits.index(bit) % len(SERIES)]
        figure.add_scatter(
            x=[places[row["layer"]] for row in found],
            # A logarithm needs positive numbers; 0 is an exact copy.
            y=[max(row[measure], 1e-12) for row in found],
            text=[plain(f"{row['layer']}.{row['tensor']}, {row['bits']} bits") for row in found],
            name=f"{kind}, {bit} bits",
            # A product has two operands at one place, which a line would join.
            mode="markers" if kind == "operands of products" else "lines+markers",
            line={"color": colour, "dash": "solid" if kind == "weights" else "dot", "width": 1.5},
            marker={"symbol": SYMBOLS[bits.index(bit) % 3 + 3 * (kind != "weights")], "size": 6},
            hovertemplate="%{text}<br>%{y:.2e}<extra></extra>",
        )
    worst = max(rows, key=lambda row: row[measure])
    title = {"features": "Error of the backbone's outputs", "logits": "Error of the model's outputs"}[measure]
    figure.update_xaxes(title="layer, in order of execution")
    nats = measure == "logits" and record.get("logits") != "error"
    figure.update_yaxes(title="divergence in nats" if nats else "relative squared error", type="log")
    figure.update_yaxes(exponentformat="power", dtick=1 if decades([row[measure] for row in rows]) < 7 else 2)
    text = (
        f"Line chart of {len(names)} layers. The largest error, {worst[measure]:.2e}, is of {worst['layer']}, "
        f"{worst['tensor']}, at {worst['bits']} bits."
    )
    return finished(f"sensitivity-{measure}", title, text, figure, 400)


def decades(values: Sequence[float]) -> float:
    """The powers of ten between the smallest and the largest number, where those below 1e-12 count as it."""
    found = [max(value, 1e-12) for value in values]
    return math.log10(max(found) / min(found)) if found else 0.0


def histogram_chart(one: Histogram, number: int) -> Chart:
    """The counts of a quantizer's values, with lines at the ends of its grid.

    Args:
        one: The histogram.
        number: Its number in the page.
    """
    width = (one.stop - one.start) / len(one.counts)
    figure = go.Figure()
    figure.add_bar(
        x=[float(f"{one.start + (index + 0.5) * width:.6g}") for index in range(len(one.counts))],
        # The axis is logarithmic: an empty bin has no bar.
        y=[count or None for count in one.counts],
        width=width,
        marker={"color": BLUE if one.kind == "weight" else GREEN, "line": {"width": 0}},
        hovertemplate="%{x:.4g}: %{y} values<extra></extra>",
    )
    for end in (one.low, one.high):
        figure.add_vline(x=end, line={"color": RED, "dash": "dash", "width": 2})
    figure.update_xaxes(
        title="value" if one.unit == "value" else "value in steps of its channel", range=[one.start, one.stop], nticks=6
    )
    step = 1 if decades([count for count in one.counts if count]) < 4 else 2
    figure.update_yaxes(title="values", type="log", exponentformat="power", dtick=step, tickfont={"size": 11})
    text = (
        f"Histogram of {one.total} values of {one.name}, from {one.minimum:.4g} to {one.maximum:.4g}; the grid of "
        f"{one.bits} bits reaches from {one.low:.4g} to {one.high:.4g}."
    )
    return finished(f"histogram-{number}", one.name, text, figure, 220, bargap=0, showlegend=False)


def time_chart(report: Report) -> Chart | None:
    """Bars of the seconds of each stage; None without rows."""
    stages = {name: [row["seconds"].get(stage, 0.0) for row in report.rows] for stage, name in STAGES.items()}
    if not report.rows:
        return None
    figure = go.Figure()
    for index, row in enumerate(report.rows):
        values = [seconds[index] for seconds in stages.values()]
        figure.add_bar(
            y=list(stages),
            x=[round(value, 2) for value in values],
            name=plain(row_name(row)),
            orientation="h",
            text=[f"{value:.1f} s" if value else "" for value in values],
            textposition="outside",
            cliponaxis=False,
            marker={"color": SERIES[index % len(SERIES)]},
            hovertemplate="%{y}: %{x:.1f} s<extra>%{fullData.name}</extra>",
        )
    longest = max(max(seconds) for seconds in stages.values())
    # Room for the text beside the longest bar.
    figure.update_xaxes(title="seconds", range=[0, 1.25 * longest or 1])
    figure.update_yaxes(autorange="reversed")
    text = "; ".join(f"{name}: {sum(values):.0f} s" for name, values in stages.items())
    return finished("time", "Time of each stage", f"Bar chart in seconds. {text}.", figure, 280, barmode="group")
