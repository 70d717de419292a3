"""The model index lists every config, says what its config and mmdet's own index say, and fills the table."""

from __future__ import annotations

import functools
import re
import runpy
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from dev import model_index
from psaq_mm import cli
from psaq_mm.errors import PSAQError
from psaq_mm.utils.config_lookup import packaged_configs

ROOT = Path(__file__).parents[2]
MODELS = model_index.read_models(ROOT)
RECIPES = [model for model in MODELS if model_index.bits(model) != "FP32"]


def by_name(model: dict) -> str:
    return model["Name"]


def test_every_config_is_listed_under_the_name_that_finds_it():
    assert {model["Name"]: model["Config"] for model in MODELS} == {
        name: f"configs/{name}.py" for name in packaged_configs()
    }


@pytest.mark.parametrize("model", RECIPES, ids=by_name)
def test_recipes_are_what_the_index_says(model):
    cfg = Config.fromfile(ROOT / model["Config"])
    quantization = cfg.dfq.quantization
    assert model_index.bits(model) == f"W{quantization.weight_bits}A{quantization.activation_bits}"
    assert model["Name"].endswith(model_index.bits(model).lower())
    if "Weights" not in model:
        assert model["Metadata"]["Checkpoint"] == "no public checkpoint" and not metrics(model)
        assert cfg.checkpoint_training == f"configs/{model['Metadata']['Float Config']}.py"
        assert (ROOT / cfg.checkpoint_training).is_file() and "checkpoint_url" not in cfg
        return
    assert model["Weights"] == cfg.get("checkpoint_url", cfg.load_from)
    converted = "_converted" if "checkpoint_converter" in cfg else ""
    assert Path(model["Weights"]).stem + converted == Path(cfg.load_from).stem
    if "://" not in model["Weights"]:
        assert (ROOT / model["Weights"]).is_file()
        assert model["Metadata"]["Float Config"] in packaged_configs()


@pytest.mark.parametrize("model", MODELS, ids=by_name)
def test_what_mim_needs(model):
    """mim joins lists and shows strings and numbers; an empty list, or a mapping but for Metrics, breaks it."""
    assert all(isinstance(value, str | int | float) for value in model["Metadata"].values())
    assert all(set(result) == {"Task", "Dataset", "Metrics"} for result in model["Results"])
    assert {"Training Data", "Backbone", "Weight Bits", "Activation Bits"} <= set(model["Metadata"])
    assert all(isinstance(model[key], str) for key in ("Name", "In Collection", "Config"))


# Where each library's metafiles lie (there are a hundred others), and which of their figures stand in ours.
HOSTS = {
    "mmdet": (["swin"], {"box AP": "FP box AP", "mask AP": "FP mask AP"}),
    "mmseg": (["swin", "vit"], {"mIoU": "FP mIoU"}),
    "mmpretrain": (["deit", "swin_transformer"], {"Top 1 Accuracy": "FP top-1"}),
}


@functools.cache
def published(host: str) -> dict[str, dict]:
    """What a library's own metafiles say, by the model's name."""
    configs = Path(find_spec(host).origin).parent / ".mim" / "configs"
    files = [path for folder in HOSTS[host][0] for path in (configs / folder).glob("metafile.y*ml")]
    return {one["Name"]: one for path in files for one in yaml.safe_load(path.read_text())["Models"]}


def metrics(model: dict) -> dict[str, float]:
    results = model["Results"]  # mmseg has one, without a list around it
    results = results if isinstance(results, list) else [results]
    return {key: value for result in results for key, value in result["Metrics"].items()}


def host_of(model: dict) -> str | None:
    """The library whose config the recipe is based on, None for one of our own."""
    base = (ROOT / model["Config"].replace("_w4a8", "_w8a8")).read_text()
    found = re.search(r"^_base_ = \['(\w+)::", base, re.MULTILINE)
    return found[1] if found else None


OFFICIAL = [model for model in RECIPES if host_of(model)]


def test_recipes_for_every_task_are_compared():
    assert [host_of(model) for model in OFFICIAL].count("mmdet") == 4
    assert [host_of(model) for model in OFFICIAL].count("mmseg") == 6
    assert [host_of(model) for model in OFFICIAL].count("mmpretrain") == 10


@pytest.mark.parametrize("model", OFFICIAL, ids=by_name)
def test_float_figures_are_those_of_the_library(model):
    host = host_of(model)
    theirs = published(host)[model["Metadata"]["Float Config"]]
    assert theirs["Weights"] == model["Weights"]
    names = HOSTS[host][1]
    published_figures = {names[key]: value for key, value in metrics(theirs).items() if key in names}
    assert {key: value for key, value in metrics(model).items() if key.startswith("FP")} == published_figures
    base = (ROOT / model["Config"].replace("_w4a8", "_w8a8")).read_text()
    assert f"'{host}::{theirs['Config'].removeprefix('configs/')}'" in base
    # the figure in the file's first line
    assert all(str(value) in base.splitlines()[0] for value in published_figures.values())


def run_tool(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["config_table.py", *arguments])
    return cli.run_tool(runpy.run_path(str(ROOT / "dev" / "config_table.py"))["main"])


def test_the_table_is_up_to_date(monkeypatch):
    assert run_tool(monkeypatch, str(ROOT), "--check") == 0, "run: make tables"


@pytest.fixture
def copied(tmp_path):
    shutil.copy(ROOT / "model-index.yml", tmp_path)
    for path in (ROOT / "configs").rglob("*"):
        if path.suffix in (".yml", ".md"):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return tmp_path


def test_an_old_table_is_found_and_mended(copied, monkeypatch, capsys):
    metafile, readme = copied / "configs" / "metafile.yml", copied / "configs" / "README.md"
    metafile.write_text(metafile.read_text().replace("FP box AP: 48.2", "FP box AP: 48.3"))
    before = readme.read_text()
    assert run_tool(monkeypatch, str(copied), "--check") == 1
    assert "run python -m dev.config_table" in capsys.readouterr().err and readme.read_text() == before
    assert run_tool(monkeypatch, str(copied)) == 0
    assert readme.read_text().count("48.3") == 2
    assert run_tool(monkeypatch, str(copied), "--check") == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Name: mask_rcnn_swin_s_w4a8", "Name: mask_rcnn_swin_s_w8a8", "lists mask_rcnn_swin_s_w8a8 twice"),
        ("Collection: PSAQ-ViT V2", "Collection: other", "collection 'other', which isn't listed"),
        ("    Config:", "    Konfig:", "lacks Config of mask_rcnn_swin_s_w8a8"),
        ("Models:", "Models: [", "is no YAML"),
    ],
    ids=["twice", "collection", "key", "syntax"],
)
def test_a_broken_index_is_one_line(copied, monkeypatch, capsys, old, new, said):
    metafile = copied / "configs" / "metafile.yml"
    metafile.write_text(metafile.read_text().replace(old, new, 1))
    assert run_tool(monkeypatch, str(copied)) == 1
    assert said in capsys.readouterr().err


def test_a_metafile_that_is_not_there(copied):
    (copied / "configs" / "demo" / "metafile.yml").unlink()
    with pytest.raises(PSAQError, match="there is no .*demo/metafile.yml"):
        model_index.read_models(copied)


def test_a_text_without_the_block():
    with pytest.raises(PSAQError, match="no block <!-- configs -->"):
        model_index.fill("# Configs", MODELS)
