"""``benchmarks/deployment.py``: the shape of its record, on a small detector; times themselves are not tested."""

from __future__ import annotations

import json
from functools import partial

import pytest

from tests.conftest import SIZE

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra [deploy] is not installed")


@pytest.fixture
def run_benchmark(run_here, tiny_recipe, tmp_path):
    """Runs ``benchmarks/deployment.py`` on a small recipe in this process."""
    tiny_recipe.dump(tmp_path / "tiny.py")
    return partial(run_here, "benchmarks/deployment.py", tmp_path / "tiny.py")


def test_every_engine_has_a_row(run_benchmark, tmp_path):
    out = tmp_path / "deploy.json"
    outcome = run_benchmark(
        "--random", "--size", SIZE, SIZE, "--rounds", 2, "--threads", 1, "--name", "tiny", "-o", out
    )
    assert (outcome.code, outcome.err) == (0, "")
    record = json.loads(out.read_text())
    assert record["threads"] == 1 and record["rows"][0]["rounds"] == 2 and record["cpu"]
    rows = {(row["engine"], row["precision"]): row for row in record["rows"]}
    engines = ("torch", "onnxruntime", "openvino")
    assert set(rows) == {(engine, "fp32") for engine in engines} | {("torch", "fake_quantize")} | {
        (engine, "int8") for engine in engines[1:]
    }
    for (engine, _), row in rows.items():
        assert row["model"] == "tiny" and row["seconds_median"] > 0
        assert (row["file_mib"] is None) == (engine == "torch")
    for engine in engines[1:]:
        assert rows[engine, "int8"]["file_mib"] < rows[engine, "fp32"]["file_mib"]
        assert record["ratios"][f"tiny {SIZE}x{SIZE}: {engine} fp32 / int8"] > 0
        for precision in ("fp32", "int8"):
            profile = record["profile"][f"tiny {SIZE}x{SIZE}: {engine} {precision}"]
            assert profile["products"] > 0 and profile["norms, softmax, GELU"] > 0 and profile["layout"] > 0
    assert "| tiny |" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--random", "--size", "50", "64"], "images of 50x64 do not fit", id="size"),
        pytest.param(["--size", "64", "64", "--checkpoint", "none.pth"], "or give --random", id="checkpoint"),
    ],
)
def test_wrong_calls_are_one_line(run_benchmark, tmp_path, arguments, message):
    outcome = run_benchmark(*arguments, "-o", tmp_path / "deploy.json")
    assert outcome.code in (1, 2) and message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "deploy.json").exists()
