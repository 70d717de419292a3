"""The generated blocks of the README and of the pages in ``docs/`` hold what ``results/`` holds."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from dev.error_table import PACKAGE, error_table
from dev.headline import TASKS, headline_table
from dev.pages import BLOCK, fill, pages
from dev.report import report
from psaq_mm.errors import PSAQError

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "results"
PAGES = [str(page.relative_to(ROOT)) for page in pages(ROOT)]


def test_the_pages_with_tables_are_found():
    assert PAGES[0] == "README.md"
    assert {"docs/results.md", "docs/deployment.md", "docs/long_runs.md", "docs/quickstart.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_committed_results(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    names = [match["name"] for match in BLOCK.finditer(text) if match["kind"] == "table"]
    missing = [name for name in names if not (RECORDS / f"{name}.json").is_file()]
    assert not missing, f"results/{missing[0]}.json is not there: tools/ablate.py makes it"
    assert fill(text, RECORDS) == text, "run: make tables"


ERRORS = """
PLACE = "config"
def f(path, layer):
    if not path:
        raise UsageError(f"layer {layer.name!r}: {path} is missing in the {PLACE}: give {', '.join(layer)} a_b")
    raise ValueError("not ours")
def g(error):
    raise PSAQError(str(error))
"""


def test_errors_are_split_into_what_is_wrong_and_what_to_do(tmp_path):
    (tmp_path / "one.py").write_text(ERRORS)
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "two.py").write_text(ERRORS)
    shown = error_table("one", tmp_path)
    assert shown.splitlines()[2:] == ["| layer NAME: PATH is missing in the config | give … a\\_b |"]
    assert error_table("several", tmp_path) == shown


def test_every_part_of_the_package_that_raises_is_on_the_troubleshooting_page():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    shown = {match["name"] for match in BLOCK.finditer(text)}
    parts = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.name[0].isalpha()}
    raising = {part for part in parts if error_table(part).count("\n") > 1}
    assert raising <= shown


def test_every_ablation_has_its_tables_on_the_results_page():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert {match["name"] for match in BLOCK.finditer(text)} >= {task.record for task in TASKS}


def test_the_readme_has_the_headline_and_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [match["kind"] for match in BLOCK.finditer(text)] == ["headline"]
    lines = text.splitlines()
    assert len(lines) <= 170
    assert any(line.startswith("## Install") for line in lines[:60])


def test_the_headline_has_one_row_a_task_and_means_over_seeds(results, tmp_path):
    for task in TASKS:
        for row in results["rows"]:
            row["metrics"] |= {"mIoU": 59.0, "accuracy/top1": 80.0}
        (tmp_path / f"{task.record}.json").write_text(json.dumps(results))
    lines = headline_table(tmp_path).splitlines()
    assert len(lines) == 2 + len(TASKS)
    (line,) = (line for line in lines if "drawn scenes | box AP" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][2:] == ["0.750", "0.740", "0.710", "-", "-", "-"]


DEMO_BLOCK = "<!-- demo-output -->\nold\n<!-- /demo-output -->"


def test_what_the_demo_printed_is_shown_as_printed(results, tmp_path):
    (tmp_path / "demo_run.json").write_text(json.dumps(results))
    (tmp_path / "x.json").write_text(json.dumps(results))
    text = fill(f"{DEMO_BLOCK}\n<!-- table:x -->\n<!-- /table -->", tmp_path)
    shown = text.partition("```text\n")[2].partition("```")[0]
    assert "DemoScenes, 200 images" in shown and "old" not in text
    assert max(map(len, shown.splitlines())) <= 80
    (line,) = (line for line in shown.splitlines() if "fp32" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")][:5] == ["fp32", "FP32", "0", "0.750", "0.700"]


def test_only_the_blocks_change(results, tmp_path):
    (tmp_path / "demo_mask_rcnn.json").write_text(json.dumps(results))
    shown = report(results)
    text = "before\n<!-- table:demo_mask_rcnn -->\nold\n<!-- /table -->\nafter <!-- /table -->\n"
    filled = fill(text, tmp_path)
    assert filled == f"before\n<!-- table:demo_mask_rcnn -->\n\n{shown}\n\n<!-- /table -->\nafter <!-- /table -->\n"
    assert fill(filled, tmp_path) == filled


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no"), ("{", "no JSON"), ('{"schema": 2}', "schema 1"), ("[]", "schema 1")],
    ids=["missing", "truncated", "other-schema", "no-record"],
)
def test_bad_records_are_named(content, said, tmp_path):
    if content is not None:
        (tmp_path / "demo_mask_rcnn.json").write_text(content)
    with pytest.raises(PSAQError, match=said):
        fill("<!-- table:demo_mask_rcnn -->\n<!-- /table -->", tmp_path)


def test_a_readme_without_blocks_is_an_error(tmp_path):
    with pytest.raises(PSAQError, match="no block"):
        fill("text", tmp_path)


def test_the_tool_checks_and_writes(results, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo_mask_rcnn.json").write_text(json.dumps(results))
    shown = report(results)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:demo_mask_rcnn -->\n<!-- /table -->\n")
    main = runpy.run_path(str(ROOT / "dev" / "tables.py"))["main"]

    def run(*options):
        monkeypatch.setattr("sys.argv", ["tables.py", str(readme), "--results", str(tmp_path), *options])
        return main()

    assert run("--check") == 1
    assert "differs" in capsys.readouterr().err and "psaq" not in readme.read_text()
    assert run() == 0
    assert shown in readme.read_text()
    assert run("--check") == 0
