"""``tools/test.py`` and ``tools/parity.py`` without their data."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from tests.conftest import SIZE


@pytest.fixture
def nowhere(finished, tmp_path):
    """A quantized model whose test set is in a folder that is not there."""
    cfg = Config.fromfile(finished.runner.artifact_paths[0])
    described = cfg.test_dataloader.dataset
    absent = {"type": "CocoDataset", "data_root": f"{tmp_path}/none/", "ann_file": "val.json"}
    cfg.test_dataloader.dataset = {**absent, "test_mode": True, "pipeline": described.pipeline}
    cfg.dump(tmp_path / "quantized.py")
    return tmp_path / "quantized.py", finished.runner.artifact_paths[1]


@pytest.mark.parametrize("tool", ["test.py", "parity.py"])
def test_a_test_set_that_is_not_there_is_one_line(run_here, nowhere, tmp_path, monkeypatch, tool):
    monkeypatch.chdir(tmp_path)
    if tool == "parity.py":
        pytest.importorskip("onnxruntime", reason="the extra [deploy] is not installed")
    more = ["--size", SIZE, SIZE, "--engines", "onnxruntime"] if tool == "parity.py" else []
    outcome = run_here(tool, *nowhere, *more)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: the test set is not there (") and "none/" in outcome.err
