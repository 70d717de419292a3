"""The rows of the paper's table and the published figures."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.fileio import load

from psaq_mm.engine.paper.plan import TITLES, all_models, chosen_models, sources, table_models
from psaq_mm.errors import UsageError
from tests.conftest import ROOT

MODELS = {model.name: model for model in all_models()}


def test_the_table_has_the_papers_backbones_and_tasks():
    titles = [model.title for model in table_models()]
    assert titles[:5] == ["DeiT-T", "DeiT-S", "DeiT-B", "Swin-T", "Swin-S"]
    heads = {title.partition(", ")[0] for title in titles[5:]}
    assert heads == {"Mask R-CNN", "Cascade Mask R-CNN", "UPerNet"}
    assert all(model.bits == ("w8a8", "w4a8") for model in table_models())


def test_every_recipe_of_the_metafile_can_be_asked_for():
    names = [entry["Name"] for entry in load(ROOT / "configs" / "metafile.yml")["Models"]]
    assert sorted(one.recipe(bits) for one in MODELS.values() for bits in one.bits) == sorted(names)


@pytest.mark.parametrize(
    ("name", "bits", "key", "figure"),
    [
        pytest.param("swin_small_timm", "w8a8", "top1", (82.13, "V2"), id="abstract"),
        pytest.param("cascade_mask_rcnn_swin_s", "w8a8", "segm_mAP", (44.1, "V2"), id="masks"),
        pytest.param("deit_small_timm", "w4a8", "top1", (73.23, "V1"), id="readme"),
        pytest.param("mask_rcnn_swin_t", "w8a8", "bbox_mAP", None, id="no-public-figure"),
        pytest.param("upernet_swin_s", "w4a8", "mIoU", None, id="no-public-bits"),
    ],
)
def test_published_figures_name_their_source(name, bits, key, figure):
    assert MODELS[name].paper.get(bits, {}).get(key) == figure
    assert figure is None or figure[1] in sources()


def test_the_metafiles_figures_of_the_paper_are_the_same():
    found = {}
    for entry in load(ROOT / "configs" / "metafile.yml")["Models"]:
        for result in entry["Results"]:
            for key, figure in result["Metrics"].items():
                if key.startswith("paper ") and "timm" not in entry["Name"]:
                    found[entry["Config"], TITLES[key.removeprefix("paper ")]] = figure
    ours = {
        (f"configs/{model.recipe(bits).replace('_timm', '')}.py", key): figure
        for model in table_models()
        for bits, figures in model.paper.items()
        for key, (figure, source) in figures.items()
        if source == "V2"
    }
    assert found == ours


def test_float_figures_are_those_of_the_metafile():
    assert MODELS["cascade_mask_rcnn_swin_s"].published == {"bbox_mAP": 51.9, "segm_mAP": 45.0}
    assert MODELS["mask_rcnn_deit_s"].published == {}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_recipes_of_a_model_differ_in_their_bits_alone(model):
    """A model's runs share the first recipe's config; the bits are set for each."""
    first, *others = (Config.fromfile(ROOT / "configs" / f"{model.recipe(bits)}.py").to_dict() for bits in model.bits)
    for one in others:
        one["dfq"]["quantization"]["weight_bits"] = first["dfq"]["quantization"]["weight_bits"]
        assert one == first


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        pytest.param(["deit_tiny_timm_w4a8"], {"deit_tiny_timm": ("w4a8",)}, id="recipe"),
        pytest.param(
            ["upernet_swin_t", "swin_tiny"],
            dict.fromkeys(["upernet_swin_t", "swin_tiny"], ("w8a8", "w4a8")),
            id="models",
        ),
        pytest.param(
            ["upernet_*_w8a8"],
            dict.fromkeys(["upernet_deit_s", "upernet_swin_t", "upernet_swin_s"], ("w8a8",)),
            id="pattern",
        ),
    ],
)
def test_rows_are_chosen_by_name(patterns, expected):
    chosen = chosen_models(patterns)
    assert {one.name: one.bits for one in chosen} == expected and all(one.selected for one in chosen)


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(UsageError, match="no row is called deit_tini_timm: choose from deit_tiny_timm,"):
        chosen_models(["deit_tini_timm"])
