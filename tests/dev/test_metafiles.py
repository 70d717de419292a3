"""Known records give known figures in a metafile's text, and nothing else of it changes."""

from __future__ import annotations

import json

import pytest

from dev import metafiles
from tests.dev.test_report import row

METAFILE = """# A comment stays.
Models:
  - Name: demo/x_w4a8
    Config: configs/demo/x_w4a8.py
    Results:
      - Task: Object Detection
        Dataset: scenes
        Metrics: {}
      - Task: Instance Segmentation
        Dataset: scenes
        Metrics:
          FP mask AP: 0.1
          psaq mask AP: 0.1
    Weights: x.pth
  - Name: demo/x
    Results:
      - Task: Object Detection
        Metrics: {}
  - Name: other_w4a8
    Results:
      - Task: Object Detection
        Metrics:
          FP box AP: 46.0
"""


@pytest.fixture
def record() -> dict:
    rows = [
        row("fp32", 32, 32, 0, 0.75, 0.7),
        row("psaq", 8, 8, 0, 0.74, 0.69),
        row("psaq", 4, 8, 0, 0.70, 0.60),
        row("psaq", 4, 8, 1, 0.71, 0.62),
        row("noise", 4, 8, 0, 0.1, 0.1),
    ]
    return {"schema": 1, "config": "configs/demo/x_w8a8.py", "rows": rows}


def test_figures_are_means_over_seeds_and_nothing_else_changes(record):
    filled = metafiles.fill(METAFILE, {"demo/x": record})
    expected = METAFILE.replace("Metrics: {}", "Metrics:\n          FP box AP: 0.75\n          psaq box AP: 0.705", 1)
    expected = expected.replace(
        "mask AP: 0.1\n          psaq mask AP: 0.1", "mask AP: 0.7\n          psaq mask AP: 0.61"
    )
    expected = expected.replace("Metrics: {}", "Metrics:\n          FP box AP: 0.75")
    assert filled == expected
    assert metafiles.fill(filled, {"demo/x": record}) == filled


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("demo/x_w8a8", {"FP box AP": 0.75, "psaq box AP": 0.74}),
        ("demo/x_w6a6", {"FP box AP": 0.75}),
        ("demo/x", {"FP box AP": 0.75}),
    ],
    ids=["measured", "not-measured", "float"],
)
def test_figures_of_a_name(record, name, found):
    assert metafiles.figures(record, name, "Object Detection") == found
    assert metafiles.figures(record, name, "Image Classification") == {}


@pytest.mark.parametrize(("seeds", "found"), [(2, 0.705), (3, 0.705), (4, 0.68)], ids=["fewer", "as-many", "more"])
def test_the_arm_with_most_rows_is_the_recipes(record, seeds, found):
    record["rows"] += [row("psaq-calib", 4, 8, seed, 0.68, 0.6) for seed in range(seeds)]
    assert metafiles.figures(record, "demo/x_w4a8", "Object Detection")["psaq box AP"] == found


def test_agreement_stands_beside_box_ap(record):
    for one in record["rows"][1:]:
        one["metrics"]["float/agreement"] = 97.5
    found = metafiles.figures(record, "demo/x_w4a8", "Object Detection")
    assert list(found.items()) == [("FP box AP", 0.75), ("psaq box AP", 0.705), ("psaq agreement", 97.5)]
    assert metafiles.figures(record, "demo/x_w4a8", "Instance Segmentation") == {
        "FP mask AP": 0.7,
        "psaq mask AP": 0.61,
    }


def test_the_record_with_most_rows_counts(record, tmp_path):
    short = {**record, "rows": record["rows"][:2]}
    for number, one in enumerate([short, record, short]):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    assert metafiles.tables(tmp_path) == {"demo/x": record}
