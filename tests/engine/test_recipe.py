"""The recipe of a config, at its own width or at another."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from psaq_mm.engine.recipe import parse_bits, recipe_of
from psaq_mm.errors import UsageError


@pytest.mark.parametrize(("text", "bits"), [("w8a8", (8, 8)), ("W4A8", (4, 8)), ("w6a6", (6, 6))])
def test_bits_are_read(text, bits):
    assert parse_bits(text) == bits


@pytest.mark.parametrize("text", ["", "8", "w8", "a8", "w8a", "wxay"])
def test_other_bits_are_a_usage_error(text):
    with pytest.raises(UsageError, match="cannot be read"):
        parse_bits(text)


def config(**dfq) -> Config:
    by_bits = {
        "w6a6": {"quantization": {"activation_observer": "percentile"}},
        "W4A8": {"distill": {"relative_lr": {"weight": 1e-4}}},
    }
    return Config({"dfq": {"distill": {"relative_lr": {"weight": 1e-5, "bias": 1e-6}}, "by_bits": by_bits, **dfq}})


@pytest.mark.parametrize(
    ("bits", "range", "rate"), [((6, 6), "percentile", 1e-5), ((4, 8), None, 1e-4), ((8, 8), None, 1e-5)], ids=str
)
@pytest.mark.parametrize("said", [True, False], ids=["by the recipe", "by the caller"])
def test_a_width_changes_what_it_says_and_nothing_else(bits, range, rate, said):
    widths = {"weight_bits": bits[0], "activation_bits": bits[1]}
    recipe = recipe_of(config(quantization=widths)) if said else recipe_of(config(), bits)
    assert recipe.quantization == ({**widths, "activation_observer": range} if range else widths)
    assert recipe.distill.relative_lr == {"weight": rate, "bias": 1e-6}
    assert "by_bits" not in recipe


def test_the_config_stays():
    cfg = config()
    before = cfg.pretty_text
    recipe_of(cfg, (6, 6))
    assert cfg.pretty_text == before


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (Config({}), "no dfq section"),
        (config(cycles=3), "unknown keys cycles"),
        (config(by_bits={"6": {}}), "bits '6' cannot be read"),
        (config(by_bits={"w6a6": {"activation_observer": "mse"}}), "unknown keys activation_observer"),
    ],
    ids=["none", "key", "width", "key of a width"],
)
def test_what_is_wrong_is_said(cfg, said):
    with pytest.raises(UsageError, match=said):
        recipe_of(cfg)


def test_names_before_version_0_2_are_read_as_todays():
    old = {
        "images": {"steps": 3},
        "cycle": {"cycles": 2, "distance": {"form": "mae"}, "place": "neck"},
        "quiet": True,
        "traceback": False,
        "by_bits": {"w4a8": {"images": {"steps": 5}, "cycle": {"place": "blocks"}}},
    }
    new = {
        "generate": {"steps": 3},
        "distill": {"cycles": 2, "discrepancy": {"form": "mae"}, "distill_on": "neck"},
        "progress": True,
        "by_bits": {"w4a8": {"generate": {"steps": 5}, "distill": {"distill_on": "blocks"}}},
    }
    for bits in ((8, 8), (4, 8)):
        assert recipe_of(Config({"dfq": old}), bits) == recipe_of(Config({"dfq": new}), bits)


def test_an_old_name_beside_the_new_one_is_merged_over_it():
    """As after --cfg-options with an old name on a recipe with new ones."""
    section = {"generate": {"steps": 3, "images": 8}, "distill": {"discrepancy": {"form": "mae"}}}
    section |= {"images": {"steps": 9}, "cycle": {"distance": {"form": "kl"}}}
    recipe = recipe_of(Config({"dfq": section}))
    assert recipe.generate == {"steps": 9, "images": 8} and recipe.distill == {"discrepancy": {"form": "kl"}}
    replaced = Config({"dfq": {"generate": {"steps": 3}}})
    replaced.dfq.images = {"type": "psaq_mm.NoiseLoop", "_delete_": True}
    assert recipe_of(replaced).generate == {"type": "psaq_mm.NoiseLoop"}
