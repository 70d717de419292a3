"""The host's evaluation, more than once in a process."""

from __future__ import annotations

import shutil

from mmengine.config import Config

from psaq_mm.engine.evaluation import evaluate


def test_each_evaluation_writes_to_its_own_folder(finished, tmp_path):
    described, checkpoint = finished.runner.artifact_paths
    first, second = tmp_path / "first", tmp_path / "second"
    figures = evaluate(Config.fromfile(described), checkpoint, first)
    shutil.rmtree(first)
    assert evaluate(Config.fromfile(described), checkpoint, second) == figures
    assert list(second.glob("*/vis_data/config.py")) and list(second.glob("*/*.log"))
    assert not first.exists()
