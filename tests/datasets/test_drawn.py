"""What all built-in data sets hold to: drawn on first use, whole or not at all, never over somebody else's pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

from psaq_mm.datasets import demo, objects, segments
from psaq_mm.errors import UsageError
from psaq_mm.utils.config_lookup import packaged_configs
from tests.conftest import ROOT

SIZE = 48


@dataclass
class Kind:
    """A data set, the module that draws it, and what it calls for each picture."""

    name: str
    module: object
    drawer: str

    def build(self, folder: Path, **options):
        described = {"data_root": str(folder), "images": 4, "size": SIZE, "test_mode": True, "pipeline": [], **options}
        return DATASETS.build({"type": f"psaq_mm.{self.name}", **described})

    def pictures(self, folder: Path, **options) -> list[bytes]:
        dataset = self.build(folder, **options)
        return [Path(dataset.get_data_info(index)["img_path"]).read_bytes() for index in range(len(dataset))]


KINDS = [
    Kind("DemoScenes", demo, "draw_scene"),
    Kind("DemoSegments", segments, "draw_scene"),
    Kind("DemoObjects", objects, "draw_object"),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request) -> Kind:
    return request.param


def test_it_is_drawn_once(kind, tmp_path, monkeypatch):
    seen, draw = [], getattr(kind.module, kind.drawer)
    monkeypatch.setattr(kind.module, kind.drawer, lambda *args: (seen.append(args), draw(*args))[1])
    assert len(kind.build(tmp_path)) == len(kind.build(tmp_path)) == 4
    assert len(seen) == 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 64}, {"images": 3}], ids=["seed", "size", "images"])
def test_it_is_drawn_anew_where_something_differs(kind, tmp_path, change):
    before, after = kind.pictures(tmp_path), kind.pictures(tmp_path, **change)
    assert len(after) == change.get("images", 4)
    assert (after[0] == before[0]) == ("images" in change)
    pictures = list((tmp_path / "val").rglob("*.png"))
    assert len(pictures) == len(after) * (2 if kind.name == "DemoSegments" else 1)
    assert sorted(os.listdir(tmp_path)) == ["val", "val.json"]


COCO = json.dumps({"info": {"year": 2017}, "images": [], "annotations": []})


@pytest.mark.parametrize("content", ["{", "[]", "{}", COCO], ids=["cut", "list", "empty", "coco"])
def test_another_data_set_is_not_overwritten(kind, tmp_path, content):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "theirs.png").touch()
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(UsageError, match=f"val.json was not made by {kind.name}: choose another data_root"):
        kind.build(tmp_path)
    assert (tmp_path / "val" / "theirs.png").exists() and (tmp_path / "val.json").read_text() == content


@pytest.mark.parametrize("other", KINDS, ids=lambda kind: f"over-{kind.name}")
def test_one_built_in_data_set_is_not_taken_for_another(kind, other, tmp_path):
    before = other.pictures(tmp_path)
    if kind is not other:
        with pytest.raises(UsageError, match=f"was not made by {kind.name}"):
            kind.build(tmp_path)
    assert other.pictures(tmp_path) == before


def test_pictures_of_unknown_origin_are_not_overwritten(kind, tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "theirs.png").touch()
    with pytest.raises(UsageError, match="val has no val.json beside it and may be yours: delete it or choose"):
        kind.build(tmp_path)
    assert sorted(os.listdir(tmp_path / "val")) == ["theirs.png"]


def test_pictures_that_are_gone_are_drawn_anew(kind, tmp_path):
    before = kind.pictures(tmp_path)
    (tmp_path / "val").rename(tmp_path / "moved")
    assert kind.pictures(tmp_path) == before


@pytest.mark.parametrize("before", [False, True], ids=["first-time", "over-an-older-one"])
def test_a_stop_between_annotations_and_pictures_is_mended(kind, tmp_path, monkeypatch, before):
    if before:
        kind.build(tmp_path, seed=5)

    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stops)
    with pytest.raises(KeyboardInterrupt):
        kind.build(tmp_path)
    monkeypatch.undo()
    assert len(kind.pictures(tmp_path)) == 4


@pytest.mark.parametrize("before", [False, True], ids=["first-time", "over-an-older-one"])
def test_a_stopped_drawing_leaves_nothing_half_done(kind, tmp_path, monkeypatch, before):
    if before:
        kind.build(tmp_path, seed=5)
    draw, calls = getattr(kind.module, kind.drawer), []

    def stops(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(kind.module, kind.drawer, stops)
    with pytest.raises(KeyboardInterrupt):
        kind.build(tmp_path)
    assert sorted(os.listdir(tmp_path)) == (["val", "val.json"] if before else [])
    monkeypatch.undo()
    if before:
        assert json.loads((tmp_path / "val.json").read_text())["info"]["seed"] == 5
    assert len(kind.build(tmp_path)) == 4


def test_splits_share_no_picture(kind, tmp_path):
    train, val = (set(kind.pictures(tmp_path, split=split, images=8)) for split in ("train", "val"))
    assert len(train) == len(val) == 8 and not train & val


def test_an_unknown_split(kind, tmp_path):
    with pytest.raises(ValueError, match=f"{kind.name} has the splits train, val, not 'test'"):
        kind.build(tmp_path, split="test")


RECIPES = [name for name in packaged_configs() if name.startswith("demo/") and name.endswith("w8a8")]


@pytest.mark.parametrize("name", RECIPES)
def test_the_real_images_of_a_demo_are_not_the_evaluations(name):
    """The recipe's arms with real images take training pictures from a folder of their own."""
    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    assert cfg.real_images.split == "train" and cfg.test_dataloader.dataset.split == "val"
    assert cfg.real_images.type == cfg.test_dataloader.dataset.type
    assert cfg.real_images.data_root != cfg.test_dataloader.dataset.data_root


ALONE = """
import sys
{block}
from mmengine.registry import DATASETS
import psaq_mm
print(DATASETS.get("psaq_mm.{name}").__name__, [host for host in {hosts} if sys.modules.get(host)])
DATASETS.build(dict(type="psaq_mm.{name}", data_root={root!r}, images=1, size=48, pipeline=[]))
"""
HOSTS = {"DemoScenes": "mmdet", "DemoSegments": "mmseg", "DemoObjects": "mmpretrain"}


def test_no_other_library_is_needed(kind, tmp_path):
    """A data set builds where only its own library is installed, and imports none before that."""
    block = "\n".join(f"sys.modules['{host}'] = None" for host in HOSTS.values() if host != HOSTS[kind.name])
    code = ALONE.format(block=block, name=kind.name, root=str(tmp_path), hosts=[*HOSTS.values()])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{kind.name} []"
    assert (tmp_path / "val").is_dir()
