"""Known records give known Markdown, and the README shows what was measured."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from dev import report
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
    (tmp_path / "x.json").write_text(json.dumps(results))
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
    ("metrics", "shown", "host"),
    [
        ({"aAcc": 81.0, "mIoU": 44.4, "mAcc": 55.0}, {"pixel accuracy": "81.00", "mIoU": "44.40"}, "mmseg 1.4.2"),
        ({"accuracy/top1": 81.2, "accuracy/top5": 95.0}, {"top-1": "81.20"}, "mmpretrain 1.3.6"),
        ({"pascal_voc/mAP": 0.7, "pascal_voc/AP50": 0.7}, {"AP": "0.700"}, "mmdet 3.5.1"),
    ],
    ids=["segmentor", "classifier", "voc"],
)
@pytest.mark.parametrize("alone", [True, False], ids=["only-its-library", "all-libraries"])
def test_other_tasks_have_their_own_figures_and_library(results, metrics, shown, host, alone):
    libraries = {"mmdet": "3.5.1", "mmseg": "1.4.2", "mmpretrain": "1.3.6"}
    name = host.partition(" ")[0]
    results["versions"] = {"torch": "2.14.1", **({name: libraries[name]} if alone else libraries)}
    for one in results["rows"]:
        one["metrics"] = metrics
    text = report.report(results)
    assert text.startswith(f"| arm | seeds | {' | '.join(f'W8A8 {title}' for title in shown)} | W4A8")
    assert f"| `fp32` | 1 | {' | '.join([*shown.values()] * 2)} |" in text
    assert f"; torch 2.14.1, {host}{'.' if name == 'mmdet' else '; '}" in text


def classified(arm, bits, seed, top1, agreement=None, kl=None):
    compared = {} if agreement is None else {"float/agreement": agreement, "float/kl": kl}
    return row(arm, *bits, seed, 0.0, 0.0) | {"metrics": {"accuracy/top1": top1, "accuracy/top5": 95.0, **compared}}


CLASSIFIER = """\
| arm | seeds | W8A8 top-1 | W8A8 agreement | W8A8 KL | W4A4 top-1 | W4A4 agreement | W4A4 KL |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `fp32` | 1 | 81.20 | - | - | 81.20 | - | - |
| `real` | 0/1 | - | - | - | 61.00 | 70.50 | 0.5000 |
| `psaq` | 1/2 | 81.00 | 98.25 | 0.0012 | 60.50 ± 0.50 | 70.00 ± 1.00 | 0.5500 ± 0.0500 |

| `psaq` minus | W8A8 top-1 | W8A8 agreement | W8A8 KL | W4A4 top-1 | W4A4 agreement | W4A4 KL |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| `fp32` | -0.20 | - | - | -20.70 | - | - |
| `real` | - | - | - | -0.50 | -0.50 | +0.0500 |

`configs/demo/x_w8a8.py`, 200 evaluation images, 152 tensors quantized and 149 left FP; \
torch 2.14.1, mmpretrain 1.3.6; top-1 in percent, differences in points; \
agreement is the share of images with the float model's top-1, in percent, \
differences in points; KL is the divergence from the float model's class probabilities."""


def test_agreement_with_the_float_model_has_columns_of_its_own(results):
    results["versions"] = {"torch": "2.14.1", "mmpretrain": "1.3.6"}
    results["rows"] = [
        classified("fp32", (32, 32), 0, 81.2),
        classified("psaq", (8, 8), 0, 81.0, 98.25, 0.00123),
        classified("psaq", (4, 4), 0, 60.0, 69.0, 0.6),
        classified("psaq", (4, 4), 1, 61.0, 71.0, 0.5),
        classified("real", (4, 4), 0, 61.0, 70.5, 0.5),
    ]
    assert report.report(results) == CLASSIFIER
    printed = report.closing_table(results)
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    lines = [[cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")] for line in printed.splitlines()]
    assert ["arm", "bits", "seed", "accuracy/top1", "agreement", "kl", "seconds", "peak MiB"] in lines
    assert ["psaq", "W8A8", "0", "81.00", "98.25", "0.0012", "0", "0"] in lines
    assert ["fp32", "FP32", "0", "81.20", "-", "-", "0", "0"] in lines


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
    text = "before\n<!-- table:demo_mask_rcnn -->\nold\n<!-- /table -->\nafter <!-- /table -->\n"
    filled = report.fill(text, tmp_path)
    assert filled == f"before\n<!-- table:demo_mask_rcnn -->\n\n{EXPECTED}\n\n<!-- /table -->\nafter <!-- /table -->\n"
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
        report.fill("<!-- table:demo_mask_rcnn -->\n<!-- /table -->", tmp_path)


def test_a_readme_without_blocks_is_an_error(tmp_path):
    with pytest.raises(PSAQError, match="no block"):
        report.fill("text", tmp_path)


def test_the_tool_checks_and_writes(results, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo_mask_rcnn.json").write_text(json.dumps(results))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:demo_mask_rcnn -->\n<!-- /table -->\n")
    main = runpy.run_path(str(ROOT / "dev" / "tables.py"))["main"]

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
        if not (path := ROOT / "results" / f"{match['name']}.json").is_file()
    ]
    if missing:
        pytest.skip(f"results/{missing[0]} is not there yet: tools/ablate.py makes it")
    assert report.fill(text, ROOT / "results") == text
