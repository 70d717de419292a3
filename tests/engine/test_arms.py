"""The arms: equal conditions, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from psaq_mm.distillation import CycleSettings
from psaq_mm.engine.arms import ARMS, arm_of, configure, real_dataset
from psaq_mm.errors import UsageError

SAMPLES = Path("samples.pth")


@pytest.mark.parametrize("arm", ARMS)
def test_arms_with_student_steps_end_with_equal_pools_and_equal_steps(recipe, arm):
    cfg = configure(recipe(), arm, (4, 8), 1, SAMPLES)
    first, cycle, plain = cfg.dfq.generate, cfg.dfq.distill, recipe().dfq
    grown = cycle.cycles * cycle.generator_images if cycle.generator_steps else 0
    trained = plain.generate.images + plain.distill.cycles * plain.distill.generator_images
    assert first.images + grown == (trained if ARMS[arm].student else plain.generate.images)
    assert cycle.cycles == (plain.distill.cycles if ARMS[arm].student else 0)
    for key in ("student_steps", "batch_size", "relative_lr", "discrepancy", "distill_on"):
        assert cycle[key] == plain.distill[key]


def test_the_arms_differ_as_their_names_say(recipe):
    chosen = {arm: configure(recipe(), arm, (4, 8), 0, SAMPLES).dfq for arm in ARMS}
    assert chosen["noise"].generate.type == chosen["fractal"].generate.type == "psaq_mm.NoiseLoop"
    assert (chosen["noise"].generate.start, chosen["fractal"].generate.start) == ("white", "fractal")
    assert chosen["real"].generate.type == "psaq_mm.RealImagesLoop"
    assert chosen["psaq"].generate.samples == chosen["psaq-calib"].generate.samples == str(SAMPLES)
    assert chosen["psaq"].distill.competition > 0 == chosen["psaq-b0"].distill.competition
    assert chosen["psaq-b0"].distill.generator_steps == chosen["psaq"].distill.generator_steps
    assert chosen["real"].distill.generator_steps == 0


@pytest.mark.parametrize("arm", [arm for arm in ARMS if ARMS[arm].student])
def test_arms_with_student_steps_train_where_the_recipe_does_not(recipe, arm):
    cfg = configure(recipe({"dfq.distill.cycles": 0}), arm, (4, 8), 0, SAMPLES)
    assert cfg.dfq.distill.cycles == CycleSettings().cycles == 6


@pytest.mark.parametrize(
    ("chosen", "arm"),
    [
        pytest.param({"distill": {"cycles": 0}}, "psaq-calib", id="calibration"),
        pytest.param({"distill": {"cycles": 2, "competition": 0.0}}, "psaq-b0", id="no-competition"),
        pytest.param({"distill": {"cycles": 2}}, "psaq", id="competition"),
        pytest.param({}, "psaq", id="no-section"),
        pytest.param({"arm": "real-calib", "distill": {"cycles": 0}}, "real-calib", id="set-by-the-ablation"),
    ],
)
def test_a_recipe_is_named_by_what_it_runs(chosen, arm):
    assert arm_of(chosen) == arm


def test_bits_and_seed_are_set(recipe):
    cfg = configure(recipe(), "noise", (6, 4), 3, SAMPLES)
    assert cfg.randomness.seed == 3
    assert (cfg.dfq.quantization.weight_bits, cfg.dfq.quantization.activation_bits) == (6, 4)


def test_the_recipe_itself_stays(recipe):
    cfg = recipe()
    before = cfg.pretty_text
    configure(cfg, "real", (6, 6), 5, SAMPLES)
    assert cfg.pretty_text == before


def test_real_images_are_the_training_set_where_nothing_else_is_said(recipe):
    cfg = recipe()
    assert real_dataset(cfg) == cfg.real_images.to_dict()
    cfg.pop("real_images")
    plain = {"type": "CocoDataset", "ann_file": "train.json", "pipeline": ["random"]}
    for dataset in (plain, {"type": "RepeatDataset", "times": 2, "dataset": plain}):
        cfg.train_dataloader = {"dataset": dataset}
        assert real_dataset(cfg) == {**plain, "pipeline": cfg.test_dataloader.dataset.pipeline}
    cfg.train_dataloader = None
    assert real_dataset(cfg) is None


def test_unknown_arms_and_missing_real_images_are_usage_errors(recipe):
    with pytest.raises(UsageError, match="'nois' is unknown"):
        configure(recipe(), "nois", (8, 8), 0, SAMPLES)
    cfg = recipe()
    cfg.real_images = None
    with pytest.raises(UsageError, match="real_images"):
        configure(cfg, "real", (8, 8), 0, SAMPLES)
