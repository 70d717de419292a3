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
        "w6a6": {"quantization": {"activation_range": "percentile"}},
        "W4A8": {"cycle": {"relative_lr": {"weight": 1e-4}}},
    }
    return Config({"dfq": {"cycle": {"relative_lr": {"weight": 1e-5, "bias": 1e-6}}, "by_bits": by_bits, **dfq}})


@pytest.mark.parametrize(
    ("bits", "range", "rate"), [((6, 6), "percentile", 1e-5), ((4, 8), None, 1e-4), ((8, 8), None, 1e-5)], ids=str
)
@pytest.mark.parametrize("said", [True, False], ids=["by the recipe", "by the caller"])
def test_a_width_changes_what_it_says_and_nothing_else(bits, range, rate, said):
    widths = {"weight_bits": bits[0], "activation_bits": bits[1]}
    recipe = recipe_of(config(quantization=widths)) if said else recipe_of(config(), bits)
    assert recipe.quantization == ({**widths, "activation_range": range} if range else widths)
    assert recipe.cycle.relative_lr == {"weight": rate, "bias": 1e-6}
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
        (config(by_bits={"w6a6": {"activation_range": "mse"}}), "unknown keys activation_range"),
    ],
    ids=["none", "key", "width", "key of a width"],
)
def test_what_is_wrong_is_said(cfg, said):
    with pytest.raises(UsageError, match=said):
        recipe_of(cfg)
