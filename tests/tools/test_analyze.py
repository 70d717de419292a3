"""The analysis from the command line."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from psaq_mm.deployment import engines
from psaq_mm.engine.analysis import latency


@pytest.fixture
def written(recipe, tmp_path):
    recipe().dump(tmp_path / "recipe.py")
    return tmp_path / "recipe.py"


def test_bits_for_a_budget_are_a_recipe_that_runs(written, tmp_path, run_here):
    arguments = ["--bits", "w4a8", "--widths", "8", "4", "--images", "2", "--tensors", "weights"]
    arguments += ["--scores", "gauss_newton", "hessian_trace", "--score", "gauss_newton"]
    work = tmp_path / "work"
    done = run_here("analyze.py", written, *arguments, "--work-dir", work, "--budget", "size=0.18")
    assert done.code == 0, done.err
    assert "the most sensitive tensors" in done.out and "of FP32" in done.out
    rows = json.loads((work / "sensitivity.json").read_text())["rows"]
    assert {row["tensor"] for row in rows} == {"weight"}
    assert all(row["scores"][name] > 0 for row in rows for name in ("gauss_newton", "hessian_trace"))
    assert "distance of the gauss_newton" not in done.out and "gauss_newton" in done.out
    overrides = Config.fromfile(work / "mixed.py").dfq.quantization.overrides
    assert overrides and {one["weight_bits"] for one in overrides} == {8}
    assert {one["pattern"] for one in overrides} < {row["layer"] for row in rows}


def test_a_budget_of_latency_keeps_layers_in_floating_point(written, tmp_path, run_here, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra [deploy] is not installed")
    asked = []

    def seconds(layer, inputs, engine):
        asked.append(engine)
        # products are slower in integers, all else twice as fast
        return {"32": 1e-3, "8": 2e-3 if len(inputs) == 2 else 0.5e-3}

    monkeypatch.setattr(latency, "seconds_of", seconds)
    work = tmp_path / "work"
    arguments = [written, "--widths", "8", "--images", "1", "--work-dir", work]
    done = run_here("analyze.py", *arguments, "--budget", "latency=0.7")
    assert done.code == 0, done.err
    record = json.loads((work / "sensitivity.json").read_text())
    times = record["latency"]["onnxruntime"]
    assert set(asked) == {"onnxruntime"} and set(times) == set(record["operations"])
    kept = {one["pattern"] for one in Config.fromfile(work / "mixed.py").dfq.quantization.overrides if one["keep_fp"]}
    assert {name for name, one in times.items() if one["8"] > one["32"]} < kept < set(times)
    cost = 1e3 * sum(one["32" if name in kept else "8"] for name, one in times.items())
    text = f"{len(kept)} of {len(times)} layers stay in floating point; predicted in onnxruntime: {cost:.3f} of "
    assert text + f"{len(times):.3f} ms in these layers" in done.out
    measured = len(asked)
    tighter = run_here("analyze.py", *arguments, "--budget", "latency=0.1")
    assert (tighter.code, len(asked)) == (2, measured), "times are kept for other budgets"
    assert "budget latency=0.1 is below the least that the measured widths allow" in tighter.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--budget", "size=big"], "budget 'size=big' is not valid", id="budget"),
        pytest.param(["--budget", "latency=1"], "latency=1 is met by floating point", id="all of the time"),
        pytest.param(["--budget", "latency=0.5", "--tensors", "weights"], "use --tensors all", id="tensors"),
        pytest.param(["--widths", "1"], "widths [1] are not valid", id="widths"),
        pytest.param(["--bits", "4"], "cannot be read", id="bits"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(written, tmp_path, run_here, arguments, message):
    done = run_here("analyze.py", written, "--work-dir", tmp_path / "work", *arguments)
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (tmp_path / "work" / "sensitivity.json").exists()


def test_a_missing_engine_is_named_before_any_work(written, tmp_path, run_here, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    done = run_here("analyze.py", written, "--work-dir", tmp_path / "work", "--budget", "latency=0.5")
    assert (done.code, "onnxruntime is not installed: pip install" in done.err) == (1, True), done.err
    assert not (tmp_path / "work" / "analysis").exists()
