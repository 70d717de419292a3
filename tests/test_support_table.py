"""The page of supported models names all that is supported, pinned and recommended, and nothing else."""

from __future__ import annotations

import re

import pytest

from dev.backbone_table import TASKS, WHOLE_RUNS, all_recipes, declared
from psaq_mm.models.adapters.declaration import BACKBONES as DECLARED
from psaq_mm.models.backbones import SUPPORTED, TIMM_CLASSIFIER
from psaq_mm.models.hosts import host_class
from psaq_mm.utils.config_lookup import packaged_configs
from tests.conftest import ROOT
from tests.models.families import CASES
from tests.models.test_backbones import BACKBONES

README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "supported.md").read_text()
(TABLE,) = re.findall(r"<!-- backbones -->\n(.*?)<!-- /backbones -->", PAGE, re.DOTALL)
ROWS = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines()[2:]]
CLASSES = {f"{host}.{name}" for name, hosts in SUPPORTED.items() for host in hosts} | {TIMM_CLASSIFIER}
TESTED = {(scope, config["type"]) for scope, config, _ in BACKBONES.values()} | {
    (case.scope, case.backbone["type"]) for case in CASES.values()
}


def full(scope: str, kind: str) -> str:
    return kind if "." in kind else f"{scope}.{kind}"


def test_every_declared_class_is_a_row():
    assert sorted(row[0] for row in ROWS) == sorted(CLASSES)


def test_the_adapters_in_the_table_declare_their_classes():
    assert declared().keys() == CLASSES
    assert {row[0]: row[1] for row in ROWS} == declared()
    folder = ROOT / "psaq_mm" / "models" / "adapters"
    assert all((folder / file).is_file() for file in declared().values())


def test_every_declared_class_is_tested_on_small_models():
    # the classifier of timm has tests of its own
    assert {TIMM_CLASSIFIER} >= CLASSES - {full(*one) for one in TESTED}


@pytest.mark.parametrize(("scope", "kind"), sorted(one for one in TESTED if full(*one) not in CLASSES))
def test_other_classes_that_are_tested_inherit_from_a_declared_one(scope, kind):
    match = DECLARED.match(host_class(full(scope, kind)))
    assert match is not None and match.rpartition(".")[2] != kind


def test_every_recipe_has_both_widths_and_stands_in_the_row_of_its_backbone():
    known = packaged_configs()
    cells = {row[0]: (row[2], row[3]) for row in ROWS}
    for name, kind, task in all_recipes():
        assert f"{name}_w4a8" in known
        tasks, names = cells[kind]
        assert task in tasks and f"`{name}`" in f"`{names}`"
    assert sum(len(names.split()) for _, names in cells.values() if names != "-") == len(all_recipes())


def test_runs_on_trained_weights_are_of_declared_classes():
    assert WHOLE_RUNS.keys() <= CLASSES


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
    hosts = {row[0].partition(".")[0] for row in ROWS}
    assert all(any(TASKS[host] in task and host in library for task, _, library in rows) for host in hosts)
    assert "docs/supported.md" in section
