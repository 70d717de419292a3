"""Configs are found and read, and files that describe no model are told apart."""

from __future__ import annotations

import pytest

from dev.zoo.configs import config_names, configs_folder, find_configs, one_line
from psaq_mm.errors import UsageError
from psaq_mm.models import HOSTS

# Of the pinned versions, as the issue that asked for this counted them.
COUNTS = {"mmdet": 827, "mmseg": 682, "mmpretrain": 538}
FILES = {
    "_base_/models/m.py": "model = dict(type='Base')",
    "a/model.py": "_base_ = ['../_base_/models/m.py']\ndefault_scope = 'mmseg'\nmodel = dict(depth=2)",
    "a/schedule.py": "train_cfg = dict(max_epochs=1)",
    "b/broken.py": "model = missing",
    "b/lazy.py": "from mmdet.models import FPN\nmodel = dict(type=FPN)",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("library", HOSTS)
def test_every_config_of_a_library_is_found(library):
    assert len(config_names(configs_folder(library))) == COUNTS[library]


def test_what_a_config_describes(folder):
    found = {one.name: one for one in find_configs(("mmdet",), folder)}
    assert list(found) == ["a/model", "a/schedule", "b/broken", "b/lazy"]
    assert found["a/model"].model == {"type": "Base", "depth": 2} and found["a/model"].scope == "mmseg"
    assert found["a/schedule"].model is None and not found["a/schedule"].error
    assert found["b/broken"].model is None and "NameError" in found["b/broken"].error
    assert found["b/lazy"].model["type"] == "mmdet.models.FPN" and found["b/lazy"].scope == "mmdet"


def test_a_library_that_is_not_installed():
    with pytest.raises(UsageError, match="no_library has no configs"):
        configs_folder("no_library")


def test_an_error_in_one_line():
    error = ValueError(f"first\n second {configs_folder('mmseg')}/x.py")
    assert one_line(error) == "ValueError: first second mmseg/.mim/configs/x.py"
    assert one_line(AssertionError()) == "AssertionError"
    assert len(one_line(ValueError("x" * 999), limit=50)) == 50
