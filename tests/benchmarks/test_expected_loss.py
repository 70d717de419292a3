"""The fit of expected to measured losses, and the curves in the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import expected_loss
from benchmarks.expected_loss import fitted, points, right, rounded, summary
from psaq_mm.analysis.expected import CURVES, NOISE, LossCurve
from psaq_mm.cli import run_tool
from tests.conftest import ROOT

RECORD = ROOT / "results" / "expected_loss.json"


def record_of(folder: Path, name: str, distances: tuple[float, ...], key: str = "accuracy/top1") -> Path:
    """A record whose losses are those of a curve of scale 3 and power 1."""
    curve, rows = LossCurve("logits", 3.0, 1.0, 0.0), [row("fp32", 32, key, 80.0)]
    for seed, distance in enumerate(distances):
        rows.append(row("psaq-calib", 4, key, 80 * (1 - curve.share(distance)), seed, {"logits": distance}))
    rows.append(row("real-calib", 4, key, 1.0, 0, {"logits": 0.1}))
    rows.append(row("psaq-calib", 4, key, 1.0, 9))
    rows.append(row("psaq", 4, key, 1.0, 0, {"logits": 0.1}))
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"schema": 1, "config": name, "rows": rows}))
    return path


def row(arm: str, bits: int, key: str, figure: float, seed: int = 0, closeness: dict | None = None) -> dict:
    head = {"arm": arm, "weight_bits": bits, "activation_bits": bits, "seed": seed}
    return {**head, "metrics": {key: figure, "other": 1.0}, "closeness": closeness or {}}


def test_points_are_rows_of_generated_images_that_were_compared(tmp_path):
    found = list(points(record_of(tmp_path, "net", (0.1, 1.0))))
    assert [(one["model"], one["bits"], one["seed"], one["value"]) for one in found] == [
        ("net", "W4A4", 0, 0.1),
        ("net", "W4A4", 1, 1.0),
    ]
    # 80 (1 - exp(-0.1 / 3)) points
    assert found[0]["lost"] == pytest.approx(2.6227, abs=1e-4) and found[0]["float"] == 80


def test_average_precision_is_counted_in_points(tmp_path):
    path = tmp_path / "detector.json"
    rows = [row("fp32", 32, "coco/bbox_mAP", 0.5), row("psaq-calib", 8, "coco/bbox_mAP", 0.49, 0, {"features": 0.1})]
    path.write_text(json.dumps({"rows": rows}))
    (found,) = points(path)
    assert (found["figure"], found["float"], found["lost"]) == ("bbox_mAP", 50, 1.0)


def test_the_curve_of_the_points_is_found(tmp_path, capsys, monkeypatch):
    paths = [record_of(tmp_path, "a", (0.1, 0.5, 2.0)), record_of(tmp_path, "b", (0.2, 1.0, 3.0))]
    out, chart = tmp_path / "out.json", tmp_path / "chart.png"
    monkeypatch.setattr("sys.argv", ["x", *map(str, paths), "-o", str(out), "--chart", str(chart)])
    assert run_tool(expected_loss.main) == 0
    record = json.loads(out.read_text())
    (curve,) = record["curves"]["top1"]
    assert (curve["scale"], curve["power"]) == pytest.approx((3.0, 1.0), rel=1e-3)
    found = [(one["model"], one["points"], one["right"], one["right_held_out"]) for one in record["summary"]]
    assert found == [("a", 3, 3, 3), ("b", 3, 3, 3)]
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "| top-1 | b | 3 | 3 | 3 |" in capsys.readouterr().out


def test_one_model_is_not_enough(tmp_path, capsys, monkeypatch):
    path = record_of(tmp_path, "a", (0.1, 0.5, 2.0))
    monkeypatch.setattr("sys.argv", ["x", str(path), "-o", str(tmp_path / "out.json")])
    assert run_tool(expected_loss.main) == 2
    assert "no two models with a closeness" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("expected", "lost", "found"),
    [
        pytest.param(2.0, 2.9, True, id="within-the-factor"),
        pytest.param(2.0, 3.1, False, id="above-it"),
        pytest.param(3.1, 2.0, False, id="below-it"),
        pytest.param(0.1, 0.39, True, id="within-the-points"),
        pytest.param(0.1, -0.1, True, id="a-gain-within-them"),
        pytest.param(0.1, -0.3, False, id="a-gain-beyond-them"),
    ],
)
def test_what_counts_as_right(expected, lost, found):
    assert right({"expected": expected, "lost": lost}, "expected") is found


def test_the_package_has_the_curves_of_the_record():
    record = json.loads(RECORD.read_text())
    assert {figure: [rounded(one) for one in curves] for figure, curves in CURVES.items()} == record["curves"]
    assert round(record["noise"], 3) == NOISE


def test_the_record_is_that_of_the_results():
    record = json.loads(RECORD.read_text())
    paths = [*sorted(RECORD.parent.glob("*.json")), *sorted(RECORD.parent.glob("expected_loss/*.json"))]
    rows, curves = fitted([one for path in paths if path != RECORD for one in points(path)])
    for figure, found in record["curves"].items():
        for one, again in zip(found, curves[figure], strict=True):
            # the solver's last digits depend on the CPU
            assert {key: one[key] for key in ("scale", "power", "spread")} == pytest.approx(
                {key: again[key] for key in ("scale", "power", "spread")}, rel=0.01
            )
    heads = [
        [(one["figure"], one["model"], one["points"]) for one in found]
        for found in (summary(rows, curves), record["summary"])
    ]
    assert heads[0] == heads[1]
