"""Training from a name: the tool finds the config, and says in one line where it cannot."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace

import pytest

from psaq_mm import cli
from tests.conftest import ROOT


@pytest.fixture
def train(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        return cli.run_tool(runpy.run_path(str(ROOT / "tools" / "train.py"))["main"])

    return run


def test_a_config_by_name(train, monkeypatch):
    seen = []
    runner = SimpleNamespace(train=lambda: None)
    monkeypatch.setattr("mmengine.runner.Runner.from_cfg", lambda cfg: seen.append(cfg) or runner)
    assert train("nuclei/mask_rcnn_swin_nano", "--cfg-options", "max_iters=3") == 0
    assert seen[0].work_dir == "work_dirs/mask_rcnn_swin_nano" and seen[0].max_iters == 3
    assert seen[0].model.roi_head.bbox_head.num_classes == 1


def test_a_name_that_is_none(train, capsys):
    assert train("mask_rcnn_swin_nanno") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is no config") and "demo/mask_rcnn_swin_nano" in line
