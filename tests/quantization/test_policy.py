"""Which specs a module gets, and how policies go through config files."""

from __future__ import annotations

import dataclasses
import json

import pytest

from psaq_mm.quantization import QuantizationError, QuantPolicy, activation_spec


def bits(policy: QuantPolicy, name: str) -> tuple[int, int] | None:
    specs = policy.specs(name)
    return specs and (specs.weight.bits, specs.activation.bits)


def test_defaults() -> None:
    specs = QuantPolicy(4, 6, weight_observer="mse", activation_observer="percentile", percentile=1.0).specs("fc")
    assert specs is not None
    assert (specs.weight.bits, specs.weight.observer, specs.weight.per_channel, specs.weight.symmetric) == (
        4,
        "mse",
        True,
        True,
    )
    activation = specs.activation
    assert (activation.bits, activation.observer, activation.percentile, activation.symmetric) == (
        6,
        "percentile",
        1.0,
        False,
    )


@pytest.mark.parametrize(
    ("overrides", "name", "expected"),
    [
        pytest.param([{"pattern": "head", "bits": 8}], "head", (8, 8), id="both"),
        pytest.param([{"pattern": "head", "bits": 8}], "headless", (4, 6), id="no-match"),
        pytest.param([{"pattern": "head", "weight_bits": 8}], "head", (8, 6), id="weight"),
        pytest.param([{"pattern": "head", "activation_bits": 8}], "head", (4, 8), id="activation"),
        pytest.param([{"pattern": "head", "keep_fp": True}], "head", None, id="keep-fp"),
        pytest.param([{"pattern": "head", "keep_fp": True}], "head.fc.0", None, id="covers-descendants"),
        pytest.param([{"pattern": "*.fc?", "bits": 2}], "blocks.0.mlp.fc1", (2, 2), id="wildcards-cross-dots"),
        pytest.param(
            [{"pattern": "*", "bits": 3}, {"pattern": "head", "weight_bits": 8}], "head", (8, 3), id="later-wins-by-key"
        ),
        pytest.param([{"pattern": "head", "weight_bits": 8}, {"pattern": "*", "bits": 3}], "head", (3, 3), id="order"),
        pytest.param(
            [{"pattern": "*", "keep_fp": True}, {"pattern": "head", "keep_fp": False}],
            "head",
            (4, 6),
            id="quantize-again",
        ),
        pytest.param([{"pattern": "head", "bits": 8, "weight_bits": 2}], "head", (2, 8), id="specific-beats-both"),
    ],
)
def test_overrides(overrides: list[dict], name: str, expected: tuple[int, int] | None) -> None:
    assert bits(QuantPolicy(4, 6, overrides=overrides), name) == expected


def test_overrides_reach_the_observers() -> None:
    specs = QuantPolicy(overrides=[{"pattern": "fc2", "activation_observer": "percentile", "percentile": 2.0}]).specs(
        "fc2"
    )
    assert specs is not None
    assert (specs.activation.observer, specs.activation.percentile, specs.weight.observer) == (
        "percentile",
        2.0,
        "minmax",
    )


def test_reason_names_the_override() -> None:
    policy = QuantPolicy(overrides=[{"pattern": "*.head", "keep_fp": True}])
    assert policy.fp_reason("net.head.fc") == "kept FP by override '*.head'"
    assert policy.fp_reason("net.body") == ""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"weight_bit": 4}, "'weight_bit'.*weight_bits", id="unknown-key"),
        pytest.param({"weight_bits": 1}, "from 2 to 8", id="bits"),
        pytest.param({"scheme": "best"}, "deploy.*paper", id="scheme"),
        pytest.param({"scheme": ["paper"]}, "deploy.*paper", id="scheme-list"),
        pytest.param({"activation_observer": "max"}, "minmax", id="observer"),
        pytest.param({"activation_observer": "ema"}, "'ema' was removed", id="removed-observer"),
        pytest.param(
            {"weight_range": "mse", "weight_observer": "mse"},
            "old name 'weight_range': use 'weight_observer' alone",
            id="old-and-new-key",
        ),
        pytest.param({"overrides": [{"bits": 4}]}, "no 'pattern'", id="no-pattern"),
        pytest.param({"overrides": "[dict(bits=4)]"}, "no list of dict", id="overrides-as-text"),
        pytest.param({"overrides": ["backbone.*"]}, "no list of dict", id="pattern-alone"),
        pytest.param({"overrides": [{"pattern": "a", "fp": True}]}, "'fp'.*keep_fp", id="unknown-override-key"),
        pytest.param({"overrides": [{"pattern": "a", "bits": 16}]}, "from 2 to 8", id="override-bits"),
    ],
)
def test_invalid_configs_are_refused(config: dict, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        QuantPolicy.from_config(config)


def test_config_round_trip() -> None:
    policy = QuantPolicy(4, 6, "paper", "mse", "percentile", 0.1, [{"pattern": "head", "keep_fp": True}])
    config = json.loads(json.dumps(policy.to_config()))
    assert QuantPolicy.from_config(config) == policy
    assert type(policy.to_config()["overrides"]) is list


def test_old_keys_are_accepted_and_written_with_their_new_names() -> None:
    override = {"pattern": "head", "activation_range": "minmax", "bits": 8}
    policy = QuantPolicy.from_config({"weight_range": "mse", "activation_range": "percentile", "overrides": [override]})
    assert (policy.weight_observer, policy.activation_observer) == ("mse", "percentile")
    assert policy.specs("head").activation.observer == "minmax"
    config = policy.to_config()
    assert config["weight_observer"] == "mse" and not any("range" in key for key in config)
    assert config["overrides"] == [{"pattern": "head", "activation_observer": "minmax", "bits": 8}]
    assert QuantPolicy(overrides=[override]).overrides == policy.overrides


def test_the_old_name_of_the_scheme_is_accepted() -> None:
    policy = QuantPolicy.from_config({"scheme": "psaq"})
    assert policy == QuantPolicy(scheme="psaq") == QuantPolicy(scheme="paper")
    assert policy.scheme == policy.to_config()["scheme"] == "paper"


def test_patterns_that_match_nothing_are_refused() -> None:
    policy = QuantPolicy(overrides=[{"pattern": "backbone.stem", "bits": 8}])
    names = ["", "backbone", "backbone.stems", "backbone.step", "neck", "roi_head"]
    with pytest.raises(QuantizationError, match="'backbone.stem' matches no module.*backbone.stems, backbone.step"):
        policy.check_patterns(names)
    policy.check_patterns([*names, "backbone.stem"])


def test_norm_inputs_and_softmax_have_specs_of_their_own() -> None:
    override = {"pattern": "late", "norm_inputs": "per_tensor", "softmax_grid": "uniform"}
    policy = QuantPolicy(activation_bits=4, norm_inputs="per_channel", softmax_grid="log2", overrides=[override])
    early, late = policy.specs("early"), policy.specs("late")
    assert early.norm_input == activation_spec(4, granularity="per_channel")
    part = dataclasses.replace(policy, norm_migration=0.5)
    assert part.specs("early").norm_input == dataclasses.replace(early.norm_input, migration=0.5)
    assert early.softmax == activation_spec(4, grid="log2")
    assert early.activation == late.norm_input == late.softmax == activation_spec(4)
