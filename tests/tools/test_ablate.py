"""Ablations from the command line, in one and in several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def written(recipe, tmp_path) -> Path:
    cfg = recipe({"env_cfg.dist_cfg.backend": "gloo"})
    cfg.pop("experiment_name")  # rows have names of their own
    cfg.dump(tmp_path / "recipe.py")
    return tmp_path / "recipe.py"


@pytest.mark.full
def test_two_processes_share_each_row_and_one_writes(written, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [str(written), "--work-dir", str(tmp_path / "work"), "--bits", "w8a8", "w4a8", "--arms", "psaq"]
    command = [sys.executable, *launcher, str(ROOT / "tools" / "ablate.py"), *arguments, "--launcher", "pytorch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("row 1/2") == 1 == done.stdout.count("ablation.csv")
    work = tmp_path / "work"
    data = json.loads((work / "ablation.json").read_text())
    assert [(row["arm"], row["weight_bits"]) for row in data["rows"]] == [("fp32", 32), ("psaq", 8), ("psaq", 4)]
    assert data["images"] == 6 and not list((work / "rows").glob("psaq*"))
    alone = [*command[:1], *command[len(launcher) + 1 : -2]]
    again = subprocess.run(alone, capture_output=True, text=True)
    assert again.returncode == 0 and "row 1/" not in again.stdout, "no row is missing"
    assert json.loads((work / "ablation.json").read_text()) == data
