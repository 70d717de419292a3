"""A run that was stopped anywhere and resumed ends as one that was not, to the bit."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from psaq_mm.engine import DFQRunner
from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.generation import FeatureDistance, NonFiniteLossError
from tests.conftest import named

# The pool loses images that the distance's constants were measured on.
OPTIONS = {"dfq.cycle.cycles": 2, "dfq.pool_capacity": 4, "dfq.images.generator.save_interval": 2}


class Stop(Hook):
    """Interrupts the run at its n-th call of one kind, after all other hooks."""

    def __init__(self, event: str, stage: str = "", at: int = 1) -> None:
        setattr(self, event, self.call)
        self.stage, self.left = stage, at

    def call(self, runner, stage: str = "", **_) -> None:
        if stage == self.stage:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def quantize(tiny_recipe, tiny_checkpoint):
    """Runs the recipe in a work dir, with or without a stop."""

    def run(folder: Path, stop: Stop | None = None, resume: bool = False, options: dict | None = None) -> DFQRunner:
        cfg = copy.deepcopy(tiny_recipe)
        cfg.merge_from_dict({**OPTIONS, **(options or {}), "resume": resume})
        runner = DFQRunner.from_cfg(named(cfg, folder))
        if stop is not None:
            runner.register_hook(stop, priority="LOWEST")
        runner.train()
        return runner

    return run


@pytest.fixture(scope="module")
def whole(quantize, tmp_path_factory) -> DFQRunner:
    return quantize(tmp_path_factory.mktemp("whole"))


def same(a: DFQRunner, b: DFQRunner) -> None:
    assert a.pool.sha256() == b.pool.sha256()
    files = [torch.load(one.folder / "quantized.pth", weights_only=True) for one in (a, b)]
    assert files[0]["meta"] == files[1]["meta"]
    assert files[0]["state_dict"].keys() == files[1]["state_dict"].keys()
    for key, value in files[0]["state_dict"].items():
        assert torch.equal(value, files[1]["state_dict"][key]), key


def test_a_seed_fixes_everything(quantize, whole, tmp_path):
    same(quantize(tmp_path), whole)


STOPS = {
    # batches of three steps; the state is saved at the second of each
    "in-the-first-batch": lambda: Stop("after_stage_step", "generate", 3),
    "before-anything-was-saved": lambda: Stop("after_stage_step", "generate", 1),
    "in-the-second-batch": lambda: Stop("after_stage_step", "generate", 6),
    "after-generation": lambda: Stop("after_stage", "generate"),
    "after-calibration": lambda: Stop("after_stage", "calibrate"),
    "after-a-cycle": lambda: Stop("after_cycle"),
    "in-the-second-cycle": lambda: Stop("after_stage_step", "distil", 7),
    "after-the-cycles": lambda: Stop("after_stage", "distil"),
}


@pytest.mark.parametrize("stop", STOPS)
def test_stopped_and_resumed_is_as_never_stopped(quantize, whole, tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS[stop]())
    # nothing that could be taken for a result, and no scratch
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {"quantized.pth", "quantized.py", "coverage.json", "results.json"}
    assert not [name for name in names if name.startswith(".")]
    same(quantize(tmp_path, resume=True), whole)


def test_resuming_twice_is_as_never_stopped(quantize, whole, tmp_path):
    for number, stop in enumerate((STOPS["in-the-second-batch"](), STOPS["after-a-cycle"]())):
        with pytest.raises(KeyboardInterrupt):
            quantize(tmp_path, stop, resume=number > 0)
    same(quantize(tmp_path, resume=True), whole)


def test_a_finished_run_is_not_made_again(quantize, whole, tmp_path):
    quantize(tmp_path)
    again = quantize(tmp_path, resume=True)
    same(again, whole)
    assert again.seconds["generate"] > 0  # of the run that made them


def test_the_seconds_of_a_finished_stage_outlast_a_stop(quantize, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["after-generation"]())
    saved = torch.load(tmp_path / "dfq_state.pth", weights_only=True)["seconds"]
    assert saved["generate"] > 0
    assert quantize(tmp_path, resume=True).seconds["generate"] == saved["generate"]


def test_without_resume_it_starts_anew(quantize, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["after-a-cycle"]())
    same(quantize(tmp_path), whole)


@pytest.mark.parametrize(
    "options",
    [{"dfq.cycle.student_steps": 3}, {"dfq.quantization.weight_bits": 4}, {"randomness.seed": 1}],
    ids=["steps", "bits", "seed"],
)
def test_the_state_of_another_recipe_is_refused(quantize, tmp_path, options):
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["after-calibration"]())
    before = (tmp_path / "dfq_state.pth").read_bytes()
    with pytest.raises(UsageError, match="belongs to another recipe: leave out --resume or choose another --work-dir"):
        quantize(tmp_path, resume=True, options=options)
    assert (tmp_path / "dfq_state.pth").read_bytes() == before


def test_a_recipe_without_a_seed_resumes_too(quantize, tmp_path):
    options = {"randomness": {}, "dfq.cycle.cycles": 0}
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["after-generation"](), options=options)
    assert quantize(tmp_path, resume=True, options=options).seed == 0


def test_a_broken_state_says_what_to_do(quantize, tmp_path):
    (tmp_path / "dfq_state.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(PSAQError, match="dfq_state.pth cannot be read: delete it and start anew"):
        quantize(tmp_path, resume=True)


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_loss_that_was_not_finite_once_loses_nothing(quantize, whole, tmp_path, monkeypatch, what):
    forward, calls = FeatureDistance.forward, []

    def fails(self, teacher, student):
        value = forward(self, teacher, student)
        calls.append(1)
        # a cycle asks 1 + 2 times for the images, where gradients reach no weight, and twice for the student
        if len(calls) < 10:
            return value
        return value * float("nan") if what == "value" else value + (value - value.detach()).sqrt()

    monkeypatch.setattr(FeatureDistance, "forward", fails)
    with pytest.raises(NonFiniteLossError, match="student distance' is not finite at step 4") as error:
        quantize(tmp_path)
    assert error.value.term == {"value": "student distance", "gradient": "gradient of the student distance"}[what]
    monkeypatch.undo()
    assert torch.load(tmp_path / "dfq_state.pth", weights_only=True)["cycle"] == 1
    same(quantize(tmp_path, resume=True), whole)
