"""The page as text: complete, escaped, small and without addresses of others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from psaq_mm.errors import PSAQError
from psaq_mm.report import Report, render, rewrite_report, write_report
from psaq_mm.report.inputs import MOST_PICTURES
from psaq_mm.report.pictures import GRID_BYTES, GRID_SIDE, encoded
from tests.report.conftest import CLOSING, NASTY, coverage_rows, histogram, noise

LIMIT = 8_000_000


class Elements(HTMLParser):
    """All elements, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag == "script"
        self.scripts += [""] if self.inside else []

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


@pytest.fixture
def page(report, sensitivity) -> str:
    return render(report, sensitivity)


def test_names_are_text(page):
    elements = Elements(page)
    assert len(elements.scripts) == 3
    assert not [attributes for tag, attributes in elements.found if "onerror" in attributes]
    own = page[: page.index('<script type="application/json"')]
    assert NASTY not in own and CLOSING not in own
    assert own.count("&lt;/script&gt;") >= 3
    json.loads(elements.scripts[0])


def test_nothing_is_loaded(page):
    elements = Elements(page)
    for tag, attributes in elements.found:
        for key in ("src", "href"):
            address = attributes.get(key)
            assert address is None or address.startswith(("data:", "#")), (tag, address)
        assert tag not in ("iframe", "object", "embed", "form")
    (policy,) = [one["content"] for tag, one in elements.found if one.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "img-src data:" in policy


def test_every_picture_and_chart_has_a_description(page):
    elements = Elements(page)
    pictures = [attributes for tag, attributes in elements.found if tag == "img"]
    assert pictures and all(one["alt"] and one["width"] and one["height"] for one in pictures)
    charts = [attributes for _, attributes in elements.found if "data-chart" in attributes]
    assert {one["data-chart"] for one in charts} >= {"figures", "coverage", "time", "histogram-1", "histogram-2"}
    assert all(one["role"] == "img" and len(one["aria-label"]) > 20 for one in charts)
    assert len(charts) == len(json.loads(elements.scripts[0]))


def test_headings_and_contents_lead_to_sections(page):
    elements = Elements(page)
    ids = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    links = [one["href"][1:] for tag, one in elements.found if tag == "a"]
    assert len(links) == 9 and set(links) <= ids
    assert [tag for tag, _ in elements.found].count("h1") == 1


@pytest.mark.parametrize(
    "text",
    ["0.602", "-0.002", "W8A8", "tools/dfq.py &#39;my recipe.py&#39;", "2.6.0", "peak memory", "41", "908"],
)
def test_the_numbers_of_the_run_are_there(page, text):
    assert text in page


def test_without_sensitivity_the_page_says_how_to_get_it(report):
    config = replace(report, facts={"config": "configs/a.py"})
    assert "python tools/analyze.py configs/a.py --work-dir DIR" in render(config)
    assert "tools/analyze.py" not in render(replace(report, facts={}))


def test_an_empty_report_is_a_page():
    page = render(Report("model", {}, "command", {}, no_figures="there is no test set"))
    assert "There are no figures: there is no test set." in page
    assert json.loads(Elements(page).scripts[0]) == []


def test_the_largest_report_is_below_eight_megabytes(report):
    """Noise in all pictures, as many as are shown, and thousands of tensors."""
    picture = encoded(noise(1200, 1600), "float", "noise")
    comparison = replace(report.comparisons[1], pictures=(picture,) * 3)
    largest = replace(
        report,
        samples=encoded(noise(700, 2600), "grid", "noise", GRID_BYTES, GRID_SIDE),
        comparisons=(comparison,) * MOST_PICTURES,
        coverage=coverage_rows(2000),
        histograms=(histogram("x" * 80, "weight", counts=(123456,) * 80),) * 12,
    )
    page = render(largest)
    assert len(page.encode()) < LIMIT
    assert "the first 1500, the others are in coverage.json" in page


def test_the_page_is_written_again_with_the_sensitivity(report, sensitivity, tmp_path):
    assert rewrite_report(tmp_path) is None
    path = write_report(report, tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"report.html", "report.json"}
    before = path.read_text(encoding="utf-8")
    (tmp_path / "sensitivity.json").write_text(json.dumps(sensitivity))
    assert rewrite_report(tmp_path) == path
    after = path.read_text(encoding="utf-8")
    assert after == render(report, sensitivity) and before == render(report)
    assert re.search(r"Error of the backbone&#39;s outputs", after)


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"name": "x"}]}', "{}"])
@pytest.mark.parametrize("name", ["report.json", "sensitivity.json"])
def test_a_damaged_file_is_named(report, tmp_path, name, text):
    write_report(report, tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(PSAQError, match=f"{name} cannot be read"):
        rewrite_report(tmp_path)


def test_the_verdict_is_left_out_where_there_is_none(report, page):
    assert "box AP 1.2 % (0.5 to 2.9)" in page
    assert 'id="verdict"' not in render(replace(report, verdict=()))
