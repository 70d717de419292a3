"""The page in a real Chromium: errors, requests, charts, phone width, colour schemes and contrast."""

from __future__ import annotations

import pytest

from psaq_mm.report import render, write_report
from tests.report.conftest import complete, sensitivity_record

pytest.importorskip("websocket", reason="websocket-client is not installed: see requirements/dev.txt")
from tests.report import browser  # noqa: E402

pytestmark = pytest.mark.skipif(browser.executable() is None, reason=f"none of {', '.join(browser.NAMES)} is installed")
PHONE, DESKTOP = 360, 1280
# Of normal text in WCAG 2.1, level AA.
CONTRAST = 4.5

# For each chart: its name, the number of its drawings, of its marks, and whether it is as wide as its place.
CHARTS = """
[...document.querySelectorAll('.chart')].map(place => ({
  key: place.dataset.chart,
  drawings: place.querySelectorAll('svg.main-svg').length,
  marks: [...place.querySelectorAll('.points path, .points .point, path.point, .js-line')]
    .filter(mark => mark.getAttribute('d') && mark.getAttribute('d') !== 'M0,0Z').length,
  fits: place.querySelector('svg.main-svg').getBoundingClientRect().right
    <= place.getBoundingClientRect().right + 1,
}))
"""

# Text of HTML and of charts whose contrast with what lies behind it is too low.
PALE = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  function rgb(colour) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  }
  function luminance([r, g, b]) {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  }
  function background(element) {
    for (let one = element; one; one = one.parentElement) {
      const found = rgb(getComputedStyle(one).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  }
  document.querySelectorAll('details').forEach(one => one.open = true);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = {checked: 0, pale: []};
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || element.closest('script, style, noscript') || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const colour = element.closest('svg') ? style.fill : style.color;
    const [one, other] = [luminance(rgb(colour)), luminance(background(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    found.checked += 1;
    if (contrast < LIMIT) found.pale.push([text.slice(0, 40), colour, contrast]);
  }
  return found;
})()
""".replace("LIMIT", str(CONTRAST))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = write_report(complete(), folder)
    path.write_text(render(complete(), sensitivity_record()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def check_drawn(page: browser.Page) -> None:
    """All charts are there, with marks, in their places."""
    found = page.run(CHARTS)
    assert {"figures", "coverage", "time", "sensitivity-features", "histogram-1"} <= {one["key"] for one in found}
    for one in found:
        assert one["drawings"] >= 1 and one["marks"] >= 2 and one["fits"], one


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_opens_without_errors_and_requests(page, path, width, dark):
    page.open(path, width, dark=dark)
    check_drawn(page)
    assert page.run("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.run("document.querySelectorAll('img').length") == page.run(
        "[...document.querySelectorAll('img')].filter(one => one.naturalWidth > 0).length"
    )
    # names are text: no element of theirs, and no script has run
    assert page.run("document.title").startswith("<img src=x")
    assert page.run("document.querySelectorAll('[onerror]').length") == 0
    found = page.run(PALE)
    assert found["checked"] > 100 and found["pale"] == []
    # also with all details open
    assert page.run("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.errors == [] and page.requests == []


def test_charts_follow_a_change_of_the_scheme(page, path):
    page.open(path, DESKTOP)
    text = "getComputedStyle(document.querySelector('.xtick text')).fill"
    colours = f"[getComputedStyle(document.body).backgroundColor, {text}]"
    light = page.run(colours)
    page.emulate(dark=True)
    page.settle()
    dark = page.run(colours)
    assert light[0] == "rgb(255, 255, 255)" and dark[0] == "rgb(20, 23, 28)"
    assert light[1] != dark[1]
    assert page.run(PALE)["pale"] == []
    assert page.errors == []


def test_charts_follow_the_width_of_the_window(page, path):
    page.open(path, DESKTOP)
    page.send("Emulation.setDeviceMetricsOverride", width=PHONE, height=800, deviceScaleFactor=1, mobile=True)
    page.run("new Promise(done => setTimeout(done, 1000))")
    check_drawn(page)
    assert page.run("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.errors == []


def test_the_keyboard_reaches_tables_that_scroll(page, path):
    page.open(path, PHONE)
    regions = page.run("[...document.querySelectorAll('.scroll')].map(one => [one.tabIndex, one.ariaLabel])")
    assert regions and all(index == 0 and label for index, label in regions)


def test_the_report_of_a_run(page, finished):
    """Of the shrunken recipe, with real predictions and histograms."""
    page.open(finished.runner.folder / "report.html", PHONE)
    found = page.run(CHARTS)
    assert len(found) == 3 + 12 and all(one["drawings"] and one["marks"] >= 2 for one in found)
    assert page.run("document.querySelectorAll('#predictions img').length") == 8
    assert page.run("document.querySelectorAll('.note').length") == 0
    assert page.run("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.errors == [] and page.requests == []


def test_the_checks_find_what_they_look_for(page, tmp_path):
    """Errors, requests and pale text of a page that has them."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<body style='background: white'><p style='color: #999'>pale</p><img src='http://127.0.0.1:9/a.png'>"
        "<div style='width: 2000px'>wide</div><script>throw new Error('thrown')</script>"
    )
    page.open(broken, PHONE)
    found = page.run(PALE)
    assert [text for text, *_ in found["pale"]] == ["pale"] and found["checked"] == 2
    assert page.requests == ["http://127.0.0.1:9/a.png"]
    assert any("thrown" in error for error in page.errors)
    assert not page.run("document.scrollingElement.scrollWidth <= 360")
    page.errors.clear()
    page.requests.clear()
