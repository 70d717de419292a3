"""The analysis from the command line."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--budget", "size=big"], "budget 'size=big' is not valid", id="budget"),
        pytest.param(["--widths", "1"], "widths [1] are not valid", id="widths"),
        pytest.param(["--bits", "4"], "cannot be read", id="bits"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(written, tmp_path, run_here, arguments, message):
    done = run_here("analyze.py", written, "--work-dir", tmp_path / "work", *arguments)
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (tmp_path / "work" / "sensitivity.json").exists()
