"""The charts' data."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from psaq_mm.report import charts
from psaq_mm.report.pictures import rgb
from psaq_mm.report.render import page_file
from tests.report.conftest import CLOSING, NASTY, sensitivity_record


def test_every_chart_has_axes_with_titles_a_description_and_no_colours_of_text(report, sensitivity):
    made = [
        charts.figures_chart(report),
        charts.coverage_chart(report.coverage),
        charts.time_chart(report),
        charts.sensitivity_chart(sensitivity, "features"),
        charts.sensitivity_chart(sensitivity, "logits"),
        *(charts.histogram_chart(one, number) for number, one in enumerate(report.histograms)),
    ]
    assert len({one.key for one in made}) == len(made)
    for one in made:
        layout = one.figure["layout"]
        titles = [layout[axis].get("title", {}).get("text") for axis in ("xaxis", "yaxis")]
        # the categories of figures and stages need none
        assert any(titles) and (all(titles) or one.key in ("figures", "time")), one.key
        assert len(one.description) > 20 and one.figure["data"]
        assert "font" not in layout and layout["paper_bgcolor"] == "rgba(0,0,0,0)"
        assert "template" not in layout or not layout["template"].get("layout")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (one / 255 for one in rgb(colour))]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_marks_stand_out_in_both_modes():
    """A contrast of 3 with the page and with its panels, as WCAG 2.1 asks for graphics."""
    grounds = re.findall(r"--(?:page|panel): (#\w{6})", page_file("style.css"))
    assert len(grounds) == 4
    for ground in grounds:
        for colour in charts.SERIES:
            low, high = sorted((luminance(ground), luminance(colour)))
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, ground)


def test_ap_is_shown_in_per_cent_and_kl_is_not(report):
    found = charts.percentages(report)
    assert list(found) == ["box AP"] and found["box AP"] == pytest.approx([60.2, 60.0])


def test_without_an_evaluation_there_is_no_chart(report):
    rows = tuple({**row, "metrics": {}} for row in report.rows)
    assert charts.figures_chart(replace(report, rows=rows)) is None
    assert charts.figures_chart(replace(report, rows=())) is None
    assert charts.time_chart(replace(report, rows=())) is None
    assert charts.coverage_chart([{**row, "sqnr": None} for row in report.coverage]) is None


def test_names_are_no_markup_in_charts(report, sensitivity):
    for one in (charts.coverage_chart(report.coverage), charts.sensitivity_chart(sensitivity, "features")):
        text = json.dumps(one.figure)
        assert NASTY not in text and CLOSING not in text
    assert "&lt;/script&gt;" in json.dumps(charts.sensitivity_chart(sensitivity, "features").figure)


def test_a_line_for_each_kind_and_bit_width(sensitivity):
    found = charts.sensitivity_chart(sensitivity, "features")
    names = [one["name"] for one in found.figure["data"]]
    assert names == ["weights, 4 bits", "inputs of layers, 4 bits", "weights, 8 bits", "inputs of layers, 8 bits"]
    assert all(one["x"] == list(range(1, 13)) for one in found.figure["data"])
    assert found.figure["layout"]["yaxis"]["type"] == "log"


def test_a_measure_that_was_not_taken_has_no_chart():
    assert charts.sensitivity_chart(sensitivity_record(logits=False), "logits") is None


def test_errors_of_zero_are_drawn(sensitivity):
    sensitivity["rows"][0]["features"] = 0.0
    found = charts.sensitivity_chart(sensitivity, "features")
    assert min(min(one["y"]) for one in found.figure["data"]) == 1e-12


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 1000.0], 3.0), ([0.0, 1.0], 12.0), ([], 0.0), ([5.0], 0.0)],
    ids=["three", "zero", "none", "one"],
)
def test_decades(values, expected):
    assert charts.decades(values) == pytest.approx(expected)


def test_bars_of_a_histogram_lie_at_the_middle_of_their_bins(report):
    found = charts.histogram_chart(report.histograms[1], 1).figure
    (bars,) = found["data"]
    # six bins from -1.75 to 2.75; empty ones have no bar
    assert bars["x"] == pytest.approx([-1.375, -0.625, 0.125, 0.875, 1.625, 2.375])
    assert bars["y"] == [None, 1, 40, 900, 30, 2] and bars["width"] == 0.75
    assert [shape["x0"] for shape in found["layout"]["shapes"]] == [-1.0, 2.0]
