"""A run that was stopped anywhere and resumed ends as one that was not, to the bit."""

from __future__ import annotations

import copy
import errno
import itertools
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from psaq_mm.distillation import recovery as guards
from psaq_mm.engine import DFQRunner
from psaq_mm.engine import run_state as state_module
from psaq_mm.engine import runner as runner_module
from psaq_mm.engine.loops import calibrate as calibrate_module
from psaq_mm.engine.run_state import common_state, point, readable_states
from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.generation import Discrepancy, NonFiniteLossError, PatchSimilarityEntropy
from psaq_mm.utils.image_store import DiskImageStore
from psaq_mm.utils.termination import Terminated
from tests.conftest import named

# The pool loses images that the distance's constants were measured on.
OPTIONS = {"dfq.distill.cycles": 2, "dfq.pool_capacity": 4, "dfq.generate.generator.save_interval": 2}


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
    "in-the-second-cycle": lambda: Stop("after_stage_step", "distill", 7),
    "after-the-cycles": lambda: Stop("after_stage", "distill"),
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
    [{"dfq.distill.student_steps": 3}, {"dfq.quantization.weight_bits": 4}, {"randomness.seed": 1}],
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
    options = {"randomness": {}, "dfq.distill.cycles": 0}
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["after-generation"](), options=options)
    assert quantize(tmp_path, resume=True, options=options).seed == 0


class Ask(Stop):
    """Calls what would be called at SIGTERM instead.

    Not by a real one: engines that other tests load leave the process a stack for signals that is too small for a CPU
    with AVX-512, and it would crash. A process of its own gets the signal in tests/tools/test_dfq.py.
    """

    def call(self, runner, stage: str = "", **_) -> None:
        if stage == self.stage:
            self.left -= 1
            if self.left == 0:
                signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)


@pytest.mark.parametrize(
    ("stage", "at"),
    [
        pytest.param("generate", 1, id="generation"),
        pytest.param("generate", 4, id="second-batch"),
        pytest.param("calibrate", 1, id="calibration"),
        pytest.param("distill", 1, id="generator-steps"),
        pytest.param("distill", 2, id="last-generator-step"),
        pytest.param("distill", 3, id="student-steps"),
        pytest.param("distill", 5, id="second-cycle"),
        pytest.param("distill", 7, id="second-cycle-student-steps"),
    ],
)
def test_asked_to_end_it_does_so_at_its_next_step(quantize, whole, tmp_path, stage, at):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match="terminated"):
        quantize(tmp_path, Ask("after_stage_step", stage, at))
    assert signal.getsignal(signal.SIGTERM) is before
    if stage == "generate":
        # saved where it stood, not at the last interval of two steps
        saved = torch.load(tmp_path / "dfq_state.pth", weights_only=True)["generate"]
        assert 3 * len(saved["done"]) + saved["batch"]["optimizer"]["step"] == at
    elif stage == "distill":
        # of each cycle's four steps the first two are the generator's
        saved = torch.load(tmp_path / "dfq_state.pth", weights_only=True)["distill"]
        part = saved["part"]
        generated = part["generator"]["optimizer"]["step"] if part["generator"] else 2
        assert 4 * saved["cycle"] + generated + part["step"] == at
    same(quantize(tmp_path, resume=True), whole)


def test_within_a_cycle_the_state_is_saved_at_intervals(quantize, whole, tmp_path):
    """Killed between two saves, with no chance to make one more."""
    options = {"dfq.distill.save_interval": 1, "dfq.distill.generator.save_interval": 1}
    expected = quantize(tmp_path / "whole", options=options)
    same(expected, whole)
    for at in (5, 8):
        folder = tmp_path / f"at-{at}"
        with pytest.raises(KeyboardInterrupt):
            quantize(folder, Stop("after_stage_step", "distill", at), options=options)
        assert torch.load(folder / "dfq_state.pth", weights_only=True)["distill"]["part"]
        same(quantize(folder, resume=True, options=options), expected)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_newest_state_that_is_no_good_falls_back_to_the_one_before(quantize, whole, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["in-the-second-cycle"]())
    newest = tmp_path / "dfq_state.pth"
    assert torch.load(newest, weights_only=True)["distill"]["cycle"] == 1
    if damage == "truncated":
        newest.write_bytes(newest.read_bytes()[:1000])
    else:
        newest.unlink()
    (path, state) = common_state(readable_states(newest, DiskImageStore(tmp_path / "pool")))
    assert path.name == "dfq_state.previous.pth" and state["distill"]["cycle"] == 0
    resumed = quantize(tmp_path, resume=True)
    same(resumed, whole)
    (log,) = tmp_path.glob(f"{resumed.timestamp}/*.log")
    assert "going on from the state before it" in log.read_text()


@pytest.mark.parametrize("damage", ["truncated", "other", "missing"])
def test_a_state_whose_images_are_no_good_falls_back_to_the_one_before(quantize, whole, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["in-the-second-cycle"]())
    newest, previous = (
        set(torch.load(tmp_path / name, weights_only=True)["pool"]["names"])
        for name in ("dfq_state.pth", "dfq_state.previous.pth")
    )
    image = tmp_path / "pool" / f"{sorted(newest - previous)[0]}.pth"
    if damage == "missing":
        image.unlink()
    elif damage == "truncated":
        image.write_bytes(image.read_bytes()[:1000])
    else:
        torch.save(torch.zeros(3, 64, 64), image)
    resumed = quantize(tmp_path, resume=True)
    same(resumed, whole)
    (log,) = tmp_path.glob(f"{resumed.timestamp}/*.log")
    assert "going on from the state before it" in log.read_text()


def test_the_state_that_was_fallen_back_to_is_not_lost_to_the_next_kill(quantize, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, STOPS["in-the-second-cycle"]())
    newest = tmp_path / "dfq_state.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path, Stop("after_stage_step", "distill"), resume=True)
    torch.load(newest, weights_only=True)
    same(quantize(tmp_path, resume=True), whole)


def test_where_memory_runs_out_in_the_last_measurement_fewer_images_are_taken(whole, monkeypatch):
    make = runner_module.calibration_function

    def limited(scope, model):
        forward = make(scope, model)

        def call(student, images):
            if len(images) > 1:
                raise MemoryError
            return forward(student, images)

        return call

    monkeypatch.setattr(runner_module, "calibration_function", limited)
    before, whole.coverage = whole.coverage, None
    whole.measure()
    assert whole.coverage is not None and len(whole.coverage.rows) == len(before.rows)


def test_the_pool_lies_on_disk_and_states_hold_names(whole):
    """Nothing is left of what the newest state does not name."""
    state = torch.load(whole.folder / "dfq_state.pth", weights_only=True)
    assert state["pool"]["images"] is None and len(set(state["pool"]["names"])) == len(whole.pool) == 4
    assert {path.stem for path in (whole.folder / "pool").iterdir()} == set(state["pool"]["names"])


def test_processes_go_on_from_what_all_of_them_have(monkeypatch):
    newest = {"recipe": "r", "done": ["generate"], "distill": {"cycle": 2}}
    previous = {"recipe": "r", "done": [], "distill": {"cycle": 0}}
    states = [(Path("newest"), newest), (Path("previous"), previous)]
    for theirs, expected in (([point(one) for _, one in states], 0), ([point(states[1][1])], 1)):
        monkeypatch.setattr(state_module, "all_gather_object", lambda own, theirs=theirs: [own, theirs])
        assert common_state(states) == states[expected]
    monkeypatch.setattr(state_module, "all_gather_object", lambda own: [own, []])
    assert common_state([]) is None
    with pytest.raises(PSAQError, match="the processes stopped at different points"):
        common_state(states)


def test_a_broken_state_says_what_to_do(quantize, tmp_path):
    (tmp_path / "dfq_state.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(PSAQError, match="dfq_state.pth cannot be read: delete it and start anew"):
        quantize(tmp_path, resume=True)


def failing(monkeypatch, what: str, calls: range) -> None:
    """Makes the student's distance, or its gradient, NaN at some of the calls."""
    forward, count = Discrepancy.forward, itertools.count(1)

    def fails(self, teacher, student):
        value = forward(self, teacher, student)
        if next(count) not in calls:
            return value
        return value * float("nan") if what == "value" else value + (value - value.detach()).sqrt()

    monkeypatch.setattr(Discrepancy, "forward", fails)


# A cycle asks 1 + 2 times for the images, where gradients reach no weight, and twice for the student.
SECOND_STUDENT_STEP = 10


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_loss_that_stays_not_finite_stops_with_the_last_good_state(quantize, whole, tmp_path, monkeypatch, what):
    failing(monkeypatch, what, range(SECOND_STUDENT_STEP, 1000))
    with pytest.raises(NonFiniteLossError, match="student discrepancy' is not finite at step 4") as error:
        quantize(tmp_path)
    assert error.value.term == {"value": "student discrepancy", "gradient": "gradient of the student discrepancy"}[what]
    monkeypatch.undo()
    assert torch.load(tmp_path / "dfq_state.pth", weights_only=True)["distill"]["cycle"] == 1
    same(quantize(tmp_path, resume=True), whole)


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_student_step_that_is_not_finite_once_is_skipped_at_half_the_rate(quantize, tmp_path, monkeypatch, what):
    failing(monkeypatch, what, range(SECOND_STUDENT_STEP, SECOND_STUDENT_STEP + 1))
    told: list[str] = []
    monkeypatch.setattr(guards.Backoff, "__init__", told_backoff(told, guards.Backoff.__init__))
    runner = quantize(tmp_path)
    assert len(told) == 1 and "step skipped, learning rate halved (1 of 5 in a row)" in told[0]
    state = torch.load(tmp_path / "quantized.pth", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for key, value in state.items() if not key.endswith("sqnr_db"))
    assert "distill" in runner.state.done


def told_backoff(told: list[str], init):
    def wrapped(self, warn, scale=1.0):
        init(self, told.append, scale)

    return wrapped


def test_an_entropy_that_is_not_finite_names_its_layer_and_is_tried_again(quantize, tmp_path, monkeypatch):
    per_layer, count = PatchSimilarityEntropy.per_layer, itertools.count(1)

    def fails(self, layers):
        values = per_layer(self, layers)
        # the first step's value is lost; asked for single layers, one says that it is at fault
        lost = next(count) == 1 or (len(layers) == 1 and "stages.1" in layers[0].layer)
        return values * float("nan") if lost else values

    monkeypatch.setattr(PatchSimilarityEntropy, "per_layer", fails)
    told: list[str] = []
    monkeypatch.setattr(guards.Backoff, "__init__", told_backoff(told, guards.Backoff.__init__))
    quantize(tmp_path, options={"dfq.distill.cycles": 0})
    assert len(told) == 1 and "entropy of layer" in told[0] and "stages.1" in told[0]


OUT_OF_MEMORY = pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=["python", "torch"]
)


@OUT_OF_MEMORY
def test_where_memory_runs_out_fewer_images_are_taken_at_a_time(quantize, tmp_path, monkeypatch, error):
    forward = PatchSimilarityEntropy.forward

    def fails(self, layers):
        if len(layers[0].tokens) > 1:
            raise error
        return forward(self, layers)

    monkeypatch.setattr(PatchSimilarityEntropy, "forward", fails)
    options = {"dfq.distill.cycles": 0}
    runner = quantize(tmp_path, options=options)
    assert runner.stages["generate"].generator.micro_batch.size == 1
    assert torch.isfinite(runner.pool.images).all()


@OUT_OF_MEMORY
def test_where_memory_runs_out_calibration_begins_anew_with_smaller_batches(
    quantize, whole, tmp_path, monkeypatch, error
):
    """With the ranges of the larger ones: the smallest and largest values of all images are the same, up to float32.

    Kernels differ by batch on some CPUs (AVX-512 FP16, AMX), so a range's last bits do, and a zero point by one.
    """
    function = calibrate_module.calibration_function

    def roomless(scope, teacher):
        forward = function(scope, teacher)

        def fails(model, images):
            found = forward(model, images)
            if len(images) > 1:
                raise error
            return found

        return fails

    monkeypatch.setattr(calibrate_module, "calibration_function", roomless)
    options = {"dfq.distill.cycles": 0, "dfq.calibrate.batch_size": 2}
    runner = quantize(tmp_path / "roomless", options=options)
    assert runner.stages["calibrate"].micro_batch.size == 1
    monkeypatch.undo()
    roomy = quantize(tmp_path / "roomy", options=options)
    assert runner.pool.sha256() == roomy.pool.sha256()
    ours, theirs = (one.student.state_dict() for one in (runner, roomy))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        whole_number = key.endswith("zero_point")
        # sums of a few hundred products; SQNRs are of these sums, in dB
        limits = {"rtol": 1e-4, "atol": 1.0 if whole_number else 1e-5, "equal_nan": True}
        torch.testing.assert_close(value, theirs[key], **limits, msg=lambda said, key=key: f"{key}: {said}")


@OUT_OF_MEMORY
def test_where_memory_runs_out_a_student_step_takes_fewer_images_at_a_time(quantize, tmp_path, monkeypatch, error):
    """The gradient is the whole batch's."""
    forward = Discrepancy.forward

    def fails(self, teacher, student):
        if torch.is_grad_enabled() and len(teacher[0]) > 1:
            raise error
        return forward(self, teacher, student)

    def gradient(runner: DFQRunner) -> torch.Tensor:
        """That of the only step."""
        return torch.cat([p.grad.flatten() for p in runner.student.parameters() if p.grad is not None])

    cycle = {"cycles": 1, "generator_steps": 0, "student_steps": 1, "batch_size": 2}
    options = {f"dfq.distill.{key}": value for key, value in cycle.items()}
    expected = gradient(quantize(tmp_path / "roomy", options=options))
    monkeypatch.setattr(Discrepancy, "forward", fails)
    runner = quantize(tmp_path / "roomless", options=options)
    assert runner.stages["distill"].cycle.micro_batch.size == 1
    # Straight-through gradients of values that round elsewhere are others: sums of one image and of two differ by 1e-7.
    assert float((gradient(runner) - expected).norm() / expected.norm()) < 1e-3


def test_other_errors_are_not_taken_for_a_lack_of_memory(quantize, tmp_path, monkeypatch):
    def fails(self, layers):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(PatchSimilarityEntropy, "forward", fails)
    with pytest.raises(RuntimeError, match="shapes differ"):
        quantize(tmp_path)


def test_a_full_disk_is_one_line_and_the_last_state_resumes(quantize, whole, tmp_path, monkeypatch):
    write, count = state_module.write_tensors, itertools.count(1)

    def full(data, path):
        if next(count) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(data, path)

    monkeypatch.setattr(state_module, "write_tensors", full)
    with pytest.raises(PSAQError, match="dfq_state.pth .No space left on device.: make room for it"):
        quantize(tmp_path)
    monkeypatch.undo()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    same(quantize(tmp_path, resume=True), whole)
