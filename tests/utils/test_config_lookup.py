"""The package's own configs and checkpoints are found by name, from any folder and in any kind of install."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from psaq_mm.cli import read_config
from psaq_mm.errors import UsageError
from psaq_mm.utils import config_lookup as packaged
from psaq_mm.utils.config_lookup import find_config, find_file, packaged_configs

ROOT = Path(__file__).parents[2]
NANO = "demo/mask_rcnn_swin_nano_w8a8"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["checkout", "links", "copies"])
def root(request, tmp_path_factory, monkeypatch):
    """A checkout as it is, one with the links of an editable install, and an installed package."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "psaq_mm" / ".mim").mkdir(parents=True)
    own = folder / "psaq_mm" / ".mim" / "configs" if request.param == "copies" else folder / "configs"
    (own / "demo").mkdir(parents=True)
    (own / "_base_").mkdir()
    for name in ("plain.py", "demo/one.py", "demo/weights.pth", "_base_/base.py"):
        (own / name).touch()
    if request.param == "links":
        os.symlink(Path("..", "..", "configs"), folder / "psaq_mm" / ".mim" / "configs")
    monkeypatch.setattr(packaged, "PACKAGE", folder / "psaq_mm")
    return own.parent


@pytest.mark.parametrize("name", ["plain", "plain.py", "configs/plain.py", "one", "demo/one", "demo/one.py"])
def test_in_any_kind_of_install(root, name):
    found = find_config(name)
    assert found.is_file() and found.stem == Path(name).stem
    assert found.is_relative_to(root) and ".mim" not in found.relative_to(root).parts
    assert list(packaged_configs()) == ["demo/one", "plain"]
    assert find_file("configs/demo/weights.pth") == root / "configs" / "demo" / "weights.pth"
    # not among the names, but a message may ask for it
    assert find_config("configs/_base_/base.py") == root / "configs" / "_base_" / "base.py"


def test_a_file_comes_before_a_name(empty_folder):
    (empty_folder / "mask_rcnn_swin_s_w8a8").touch()
    (empty_folder / "configs" / "demo").mkdir(parents=True)
    (empty_folder / "configs" / "demo" / "mask_rcnn_swin_nano.pth").touch()
    assert find_config("mask_rcnn_swin_s_w8a8") == Path("mask_rcnn_swin_s_w8a8")
    assert find_file("configs/demo/mask_rcnn_swin_nano.pth") == Path("configs/demo/mask_rcnn_swin_nano.pth")


def test_in_the_checkout_a_name_is_recorded_as_its_path(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert find_config(NANO) == Path(f"configs/{NANO}.py")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mask_rcnn_swin_nano_w8a8", ["more than one", NANO, "nuclei/mask_rcnn_swin_nano_w8a8"]),
        ("mask_rcnn_swin_s_w8a9", ["there is no config", "near names are mask_rcnn_swin_s_w8a8"]),
        ("mask_rcnn_swin_nano_w8a9.py", ["there is no config", NANO]),
        ("configs/demo/mask_rcnn_swin_nanno_w8a8.py", ["there is no config", NANO]),
        ("_base_/dfq", ["there is no config"]),
        ("zzz", ["there is no config zzz", "give the path of one"]),
        ("", ["there is no config"]),
    ],
    ids=["ambiguous", "near", "near in a folder", "path", "base", "unknown", "empty"],
)
def test_names_that_cannot_be_found(name, said):
    with pytest.raises(UsageError) as raised:
        find_config(name)
    assert all(part in str(raised.value) for part in said) and "\n" not in str(raised.value)


def arguments(config: str, checkpoint: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(config=config, checkpoint=checkpoint, work_dir=None, cfg_options={})


def test_a_config_by_name_brings_its_checkpoint_and_works_in_the_current_folder():
    cfg = read_config(arguments(NANO))
    assert Path(cfg.load_from) == ROOT / "configs" / "demo" / "mask_rcnn_swin_nano.pth"
    assert cfg.work_dir == "work_dirs/mask_rcnn_swin_nano_w8a8"
    assert cfg.test_dataloader.dataset.data_root == "data/psaq_demo/"


def test_the_rule_holds_for_a_checkpoint_of_the_command_line():
    cfg = read_config(arguments("mask_rcnn_swin_s_w8a8", "configs/demo/mask_rcnn_swin_nano.pth"))
    assert Path(cfg.load_from) == ROOT / "configs" / "demo" / "mask_rcnn_swin_nano.pth"


def test_a_checkpoint_that_is_nowhere_keeps_its_name():
    assert read_config(arguments("mask_rcnn_swin_s_w8a8")).load_from.startswith("checkpoints/")
    assert read_config(arguments(NANO, "none.pth")).load_from == "none.pth"
