"""Known records give known Markdown."""

from __future__ import annotations

import json

import pytest

from dev import report
from dev.pages import closing_table
from psaq_mm.errors import PSAQError
from tests.dev.conftest import row

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


def test_agreement_with_the_float_model_has_columns_of_its_own(results, tmp_path):
    results["versions"] = {"torch": "2.14.1", "mmpretrain": "1.3.6"}
    results["rows"] = [
        classified("fp32", (32, 32), 0, 81.2),
        classified("psaq", (8, 8), 0, 81.0, 98.25, 0.00123),
        classified("psaq", (4, 4), 0, 60.0, 69.0, 0.6),
        classified("psaq", (4, 4), 1, 61.0, 71.0, 0.5),
        classified("real", (4, 4), 0, 61.0, 70.5, 0.5),
    ]
    assert report.report(results) == CLASSIFIER
    path = tmp_path / "demo_run.json"
    path.write_text(json.dumps(results))
    printed = closing_table(path)
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    lines = [[cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")] for line in printed.splitlines()]
    assert ["arm", "bits", "seed", "accuracy/top1", "agreement", "kl", "seconds", "peak MiB"] in lines
    assert ["psaq", "W8A8", "0", "81.00", "98.25", "0.0012", "0", "0"] in lines
    assert ["fp32", "FP32", "0", "81.20", "-", "-", "0", "0"] in lines


@pytest.mark.parametrize(
    ("metrics", "heads", "note"),
    [
        (
            {"coco/bbox_mAP": 0.5, "coco/segm_mAP": 0.4},
            "W8A8 box AP | W8A8 mask AP | W8A8 agreement",
            "; agreement is the F1 score of detections that match the float model's in label and box",
        ),
        (
            {"aAcc": 81.0, "mIoU": 44.4},
            "W8A8 pixel accuracy | W8A8 mIoU | W8A8 agreement",
            "; agreement is the share of pixels with the float model's class, in percent",
        ),
        ({"own/mAP_of_mine": 0.5}, "W8A8 agreement", "; agreement with the float model, in percent"),
    ],
    ids=["detector", "segmentor", "unknown"],
)
def test_agreement_is_described_as_the_task_has_it(results, metrics, heads, note):
    for one in results["rows"]:
        compared = {} if one["arm"] == "fp32" else {"float/agreement": 97.5}
        one["metrics"] = {**metrics, **compared}
    text = report.report(results)
    assert text.startswith(f"| arm | seeds | {heads} | W4A8") and note in text
    assert "top-1" not in text and "| 97.50 |" in text


def test_a_detectors_agreement_fits_the_terminal(results, tmp_path):
    for one in results["rows"][1:]:
        one["metrics"]["float/agreement"] = 97.5
    path = tmp_path / "demo_run.json"
    path.write_text(json.dumps(results))
    printed = closing_table(path)
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    assert all(head in printed for head in ("bbox_mAP", "segm_mAP", "agreement"))


def test_without_the_arm_there_are_no_differences(results):
    results["rows"] = [one for one in results["rows"] if one["arm"] != "psaq"]
    assert "minus" not in report.report(results)


def test_a_skipped_evaluation_has_no_table(results):
    for one in results["rows"]:
        one["metrics"] = {}
    with pytest.raises(PSAQError, match="no figures"):
        report.report(results)
