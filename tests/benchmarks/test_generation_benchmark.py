"""The dense forms that generation is timed against, and the record's shape; times themselves are not tested."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.generation_benchmark import DENSE, ENTROPIES, OURS, PRODUCT, relative_error, value_and_gradients
from psaq_mm.generation import AttentionTokens
from psaq_mm.visualization.record_tables import record_markdown
from tests.conftest import SIZE


@pytest.mark.parametrize(
    "shape", [(3, 1, 20, 8), (2, 4, 9, 8)], ids=["one sequence and a class token", "windows without one"]
)
def test_dense_forms_agree_with_ours(shape):
    """In value and gradient, as close as float32 sums of some thousand terms of both signs are."""
    base = torch.randn(shape[0], shape[1], 1, shape[3])
    layers = [AttentionTokens((torch.randn(shape) + base).requires_grad_()) for _ in range(2)]
    expected, gradients = value_and_gradients(ENTROPIES[DENSE], layers)
    assert expected.shape == (shape[0],) and float(gradients[0].norm()) > 0
    for name in (PRODUCT, OURS):
        found, others = value_and_gradients(ENTROPIES[name], layers)
        assert relative_error([found], [expected]) < 1e-5
        assert relative_error(others, gradients) < 1e-4


def test_relative_error():
    assert relative_error([torch.tensor([3.0, 4.5])], [torch.tensor([3.0, 4.0])]) == pytest.approx(0.1)


def test_the_tool_times_entropy_and_steps(run_here, tiny_recipe, tmp_path):
    tiny_recipe.dump(tmp_path / "tiny.py")
    out = tmp_path / "generation.json"
    options = ["--random", "--batch", 2, "--loss-rounds", 1, "--step-rounds", 2, "--threads", 1, "--name", "tiny"]
    outcome = run_here("benchmarks/generation.py", tmp_path / "tiny.py", "--size", SIZE, SIZE, *options, "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    record = json.loads(out.read_text())
    # the entropies a second time where the C library can keep freed memory
    assert len(record["rows"]) in (len(ENTROPIES) + 5, 2 * len(ENTROPIES) + 5) and record["threads"] == 1
    assert all(row["seconds_median"] > 0 and row["batch"] == 2 for row in record["rows"])
    assert {"tiny 64x64: entropy, a / ours", "tiny 64x64: generator step / bare pass"} <= set(record["ratios"])
    assert all(0 <= value < 1e-4 for value in record["errors"].values())
    assert "| tiny | 64x64 | 2 | generator step |" in record_markdown(record)
