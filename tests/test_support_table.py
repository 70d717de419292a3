"""The page of supported models names all that is supported, pinned and recommended, and nothing else."""

from __future__ import annotations

import re

import pytest
from mmengine.config import Config

from psaq_mm.models.backbones import SUPPORTED, TIMM_CLASSIFIER
from psaq_mm.utils.config_lookup import packaged_configs
from tests.conftest import ROOT
from tests.models.test_backbones import BACKBONES

README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "supported.md").read_text()
(TABLE,) = re.findall(r"<!-- support -->\n(.*?)<!-- /support -->", PAGE, re.DOTALL)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines()[2:]]
KINDS = [(scope, config["type"]) for scope, config, _ in BACKBONES.values()]
TASKS = {"mmdet": "detection", "mmseg": "segmentation", "mmpretrain": "classification"}


def test_every_supported_class_is_a_row():
    supported = {f"{host}.{name}" for name, hosts in SUPPORTED.items() for host in hosts}
    assert sorted(row[0].strip("`") for row in ROWS) == sorted(supported | {TIMM_CLASSIFIER})


def test_every_supported_class_is_tested_on_small_models():
    tested = {kind if "." in kind else f"{scope}.{kind}" for scope, kind in KINDS}
    assert tested == {row[0].strip("`") for row in ROWS} - {TIMM_CLASSIFIER}


def test_every_recipe_stands_in_the_row_of_its_backbone():
    found: dict[str, set[str]] = {}
    tasks: dict[str, set[str]] = {}
    known = packaged_configs()
    for name, path in known.items():
        if name.endswith("_w8a8"):
            assert name.replace("_w8a8", "_w4a8") in known
            cfg = Config.fromfile(path)
            kind = cfg.model.get("backbone", cfg.model).type
            kind = kind if "." in kind else f"{cfg.default_scope}.{kind}"
            found.setdefault(kind, set()).add(name.rpartition("_")[0])
            tasks.setdefault(kind, set()).add(TASKS[cfg.default_scope])
    for kind, does, configs, _ in ROWS:
        kind = kind.strip("`")
        assert set(re.findall(r"`([^`]+)`", configs)) == found.pop(kind, set()), kind
        assert all(task in does for task in tasks.get(kind, ())), kind
    assert not found


@pytest.mark.parametrize("file", ["openmmlab", "torch"])
def test_the_versions_that_ran_are_those_of_the_requirements(file):
    pins = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements" / f"{file}.txt").read_text(), re.MULTILINE)
    cells = [line.split("|")[2] for line in PAGE.splitlines() if line.startswith(("| versions |", "| beside |"))]
    for name, version in pins:
        if name != "torchvision":  # it goes with torch
            assert f"{name.removeprefix('onedl-')} {version}" in " ".join(cells), name


def test_the_readme_has_a_row_for_every_task_and_library():
    section = README.partition("## Supported models")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    hosts = {row[0].strip("`").partition(".")[0] for row in ROWS}
    assert all(any(TASKS[host] in task and host in library for task, _, library in rows) for host in hosts)
    assert "docs/supported.md" in section
