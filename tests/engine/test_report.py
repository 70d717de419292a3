"""Known records give known Markdown, and the README shows what was measured."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from psaq_mm.engine import report
from psaq_mm.errors import PSAQError

ROOT = Path(__file__).parents[2]


def row(arm, weight_bits, activation_bits, seed, box, mask):
    metrics = {"coco/bbox_mAP": box, "coco/bbox_mAP_50": 0.9, "coco/segm_mAP": mask}
    return {
        "arm": arm,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "seed": seed,
        "metrics": metrics,
        "samples_sha256": "",
        "seconds": {},
        "peak_memory_mib": 0,
    }


@pytest.fixture
def results():
    return {
        "schema": 1,
        "config": "configs/demo/x_w8a8.py",
        "dataset": "DemoScenes",
        "images": 200,
        "versions": {"torch": "2.14.1", "numpy": "2.2.6", "mmdet": "3.5.1"},
        "coverage": {"quantized": 152, "fp": 149},
        "rows": [
            row("fp32", 32, 32, 0, 0.75, 0.7),
            row("psaq", 8, 8, 0, 0.74, 0.69),
            row("psaq", 4, 8, 0, 0.70, 0.60),
            row("noise", 8, 8, 0, 0.73, 0.68),
            row("psaq", 4, 8, 1, 0.71, 0.62),
            row("psaq", 4, 8, 2, 0.72, 0.64),
        ],
    }


DEMO_BLOCK = "<!-- demo-output -->\nold\n<!-- /demo-output -->"


def test_what_the_demo_printed_is_shown_as_printed(results, tmp_path):
    (tmp_path / "demo_run.json").write_text(json.dumps(results))
    (tmp_path / "x_mask_rcnn.json").write_text(json.dumps(results))
    text = report.fill(f"{DEMO_BLOCK}\n<!-- table:x -->\n<!-- /table -->", tmp_path)
    shown = text.partition("```text\n")[2].partition("```")[0]
    assert "DemoScenes, 200 images" in shown and "old" not in text
    assert max(map(len, shown.splitlines())) <= 80
    (line,) = (line for line in shown.splitlines() if "fp32" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")][:5] == ["fp32", "FP32", "0", "0.750", "0.700"]


EXPECTED = """\
| arm | seeds | W8A8 box AP | W8A8 mask AP | W4A8 box AP | W4A8 mask AP |
| --- | ---: | ---: | ---: | ---: | ---: |
| `fp32` | 1 | 0.750 | 0.700 | 0.750 | 0.700 |
| `noise` | 1/0 | 0.730 | 0.680 | - | - |
| `psaq` | 1/3 | 0.740 | 0.690 | 0.7100 ± 0.0058 | 0.6200 ± 0.0115 |

| `psaq` minus | W8A8 box AP | W8A8 mask AP | W4A8 box AP | W4A8 mask AP |
| --- | ---: | ---: | ---: | ---: |
| `fp32` | -0.0100 | -0.0100 | -0.0400 | -0.0800 |
| `noise` | +0.0100 | +0.0100 | - | - |

`configs/demo/x_w8a8.py`, 200 evaluation images, 152 tensors quantized and 149 left FP; torch 2.14.1, mmdet 3.5.1."""


def test_a_known_record_gives_known_markdown(results):
    assert report.report(results) == EXPECTED


@pytest.mark.parametrize(
    ("metrics", "titles", "host"),
    [
        ({"aAcc": 81.0, "mIoU": 44.4, "mAcc": 55.0}, ["pixel accuracy", "mIoU"], "mmseg 1.4.2"),
        ({"accuracy/top1": 81.2, "accuracy/top5": 95.0}, ["top-1"], "mmpretrain 1.3.6"),
    ],
    ids=["segmentor", "classifier"],
)
def test_other_tasks_have_their_own_figures_and_library(results, metrics, titles, host):
    results["versions"] |= {"mmseg": "1.4.2", "mmpretrain": "1.3.6"}
    for one in results["rows"]:
        one["metrics"] = metrics
    text = report.report(results)
    assert text.startswith(f"| arm | seeds | {' | '.join(f'W8A8 {title}' for title in titles)} | W4A8")
    assert text.endswith(f"torch 2.14.1, {host}.")


def test_without_the_arm_there_are_no_differences(results):
    results["rows"] = [one for one in results["rows"] if one["arm"] != "psaq"]
    assert "minus" not in report.report(results)


def test_a_skipped_evaluation_has_no_table(results):
    for one in results["rows"]:
        one["metrics"] = {}
    with pytest.raises(PSAQError, match="no figures"):
        report.report(results)


def test_only_the_blocks_change(results, tmp_path):
    (tmp_path / "demo_mask_rcnn.json").write_text(json.dumps(results))
    text = "before\n<!-- table:demo -->\nold\n<!-- /table -->\nafter <!-- /table -->\n"
    filled = report.fill(text, tmp_path)
    assert filled == f"before\n<!-- table:demo -->\n\n{EXPECTED}\n\n<!-- /table -->\nafter <!-- /table -->\n"
    assert report.fill(filled, tmp_path) == filled


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no"), ("{", "no JSON"), ('{"schema": 2}', "schema 1"), ("[]", "schema 1")],
    ids=["missing", "truncated", "other-schema", "no-record"],
)
def test_bad_records_are_named(content, said, tmp_path):
    if content is not None:
        (tmp_path / "demo_mask_rcnn.json").write_text(content)
    with pytest.raises(PSAQError, match=said):
        report.fill("<!-- table:demo -->\n<!-- /table -->", tmp_path)


def test_a_readme_without_blocks_is_an_error(tmp_path):
    with pytest.raises(PSAQError, match="no block"):
        report.fill("text", tmp_path)


def test_the_tool_checks_and_writes(results, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo_mask_rcnn.json").write_text(json.dumps(results))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:demo -->\n<!-- /table -->\n")
    main = runpy.run_path(str(ROOT / "tools" / "tables.py"))["main"]

    def run(*options):
        monkeypatch.setattr("sys.argv", ["tables.py", str(readme), "--results", str(tmp_path), *options])
        return main()

    assert run("--check") == 1
    assert "differs" in capsys.readouterr().err and "psaq" not in readme.read_text()
    assert run() == 0
    assert EXPECTED in readme.read_text()
    assert run("--check") == 0


def test_the_readme_shows_the_committed_results():
    text = (ROOT / "README.md").read_text()
    missing = [
        path.name
        for match in report.BLOCK.finditer(text)
        if not (path := ROOT / "results" / f"{match['name']}_mask_rcnn.json").is_file()
    ]
    if missing:
        pytest.skip(f"results/{missing[0]} is not there yet: tools/ablate.py makes it")
    assert report.fill(text, ROOT / "results") == text
