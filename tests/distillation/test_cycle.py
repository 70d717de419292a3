"""The whole algorithm on a network of plain torch, without mmengine: generate, calibrate, distill."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from psaq_mm.distillation import (
    CycleSettings,
    DistillState,
    Events,
    ImageGenerator,
    ImageSource,
    Teacher,
    TeacherStudentCycle,
    calibrate,
    generate_images,
)
from psaq_mm.distillation.state import as_dict, from_dict
from psaq_mm.errors import GenerationError
from psaq_mm.generation import AttentionTokens, Discrepancy, SamplePool
from psaq_mm.quantization import QuantPolicy, freeze, make_rounding, quantize_model


class Net(nn.Module):
    """One self-attention on 16 patches of an image of 16 x 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        return self.proj((q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v)


class NetTaps:
    """The tokens before the output projection."""

    def __init__(self, net: Net) -> None:
        self.net, self.found = net, []

    def __enter__(self) -> NetTaps:
        self.handle = self.net.proj.register_forward_pre_hook(
            lambda _, args: self.found.append(AttentionTokens(args[0][:, None], layer="proj"))
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def take(self) -> list[AttentionTokens]:
        found, self.found = self.found, []
        return found


class Identity:
    """Images are made as the network gets them."""

    lower, upper = torch.full((3,), -2.0), torch.full((3,), 2.0)

    def to_network(self, images: Tensor) -> Tensor:
        return images

    from_network = to_network


class Store(dict):
    def keep(self, image: Tensor) -> str:
        self[str(len(self))] = image
        return str(len(self) - 1)

    open = dict.__getitem__


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    return [model(images)]


class Recorder(Events):
    """Notes what happens, and stops the run at a step of a stage."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stop, self.calls, self.saved = stop, [], None
        self.state: Callable[[], object] = lambda: None

    def begin(self, stage: str, total: int) -> None:
        self.calls.append((stage, total))

    def step(self, stage, step, save=None, due=False) -> None:
        self.calls.append((stage, step))
        if (stage, step) == self.stop:
            save()
            raise KeyboardInterrupt

    def cycle(self, cycle: int, cycles: int, terms: dict[str, float]) -> None:
        self.calls.append(("cycle", cycle, sorted(terms)))

    def save(self) -> None:
        self.saved = copy.deepcopy(self.state())


SETTINGS = CycleSettings(
    cycles=2, generator_steps=2, generator_images=4, student_steps=3, batch_size=4, relative_lr={"weight": 0.1}
)


class Run:
    """A run on the network of plain torch, stopped and continued as asked."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = Net().eval()
        self.net.requires_grad_(False)
        self.teacher = Teacher(self.net, outputs, lambda: NetTaps(self.net), Identity())
        self.source = ImageSource(self.teacher, torch.Generator().manual_seed(0))
        self.pool = SamplePool(64, 0)
        self.student = quantize_model(copy.deepcopy(self.net), QuantPolicy(weight_bits=4)).eval()
        self.student.requires_grad_(True)
        self.generator = ImageGenerator(self.teacher, self.source.generator, 0, pytest.fail, lr=0.1, warmup=0)
        self.state = DistillState()

    def prepare(self, events: Events) -> None:
        made = generate_images(self.source, self.generator, Store(), 6, (16, 16), "white", 4, 3, events=events)
        self.pool.add(made, tag="first")
        calibrate(self.student, self.pool.first(6), outputs, 4, make_rounding("gptq"), events=events)

    def distill(self, events: Events, settings: CycleSettings = SETTINGS) -> TeacherStudentCycle:
        discrepancy = Discrepancy("mae")
        cycle = TeacherStudentCycle(
            self.source,
            self.student,
            self.pool,
            outputs,
            discrepancy,
            settings,
            self.generator,
            self.state,
            None,
            events,
        )
        cycle.run()
        return cycle

    def snapshot(self) -> dict[str, object]:
        """What a runner would save."""
        return {
            "distill": as_dict(self.state),
            "pool": self.pool.state_dict(),
            "rng": self.source.generator.get_state(),
            "student": self.student.state_dict(),
        }

    def restore(self, saved: dict[str, object]) -> None:
        self.pool.load_state_dict(saved["pool"])
        self.source.generator.set_state(saved["rng"])
        self.student.load_state_dict(saved["student"])
        self.state = from_dict(DistillState, saved["distill"])


@pytest.fixture(scope="module")
def whole() -> tuple[Run, Recorder]:
    run, events = Run(), Recorder()
    run.prepare(events)
    run.distill(events)
    return run, events


def distance(run: Run) -> float:
    images = run.pool.images
    with torch.no_grad():
        return float((run.net(images) - run.student(images)).abs().mean())


def test_stages_begin_step_and_end_in_order(whole):
    run, events = whole
    assert events.calls[:9] == [
        ("generate", 6), *[("generate", step) for step in range(1, 7)], ("calibrate", 4), ("calibrate", 1)
    ]  # fmt: skip
    cycles = [call for call in events.calls if call[0] == "cycle"]
    assert [number for _, number, _ in cycles] == [1, 2]
    assert {"generator/loss/competition", "student/discrepancy", "student/discrepancy_grad"} <= set(cycles[0][2])
    assert len(run.pool) == 6 + 2 * SETTINGS.generator_images


def test_the_student_comes_nearer_to_the_teacher():
    run = Run()
    run.prepare(Events())
    freeze(run.student)
    before = distance(run)
    run.distill(Events(), CycleSettings(cycles=4, generator_steps=0, student_steps=30, relative_lr={"weight": 0.01}))
    freeze(run.student)
    assert distance(run) < 0.9 * before


# One of six images.
HELD_OUT = dataclasses.replace(SETTINGS, held_out=2)


def held_out_distance(run: Run) -> float:
    with torch.no_grad():
        return float((run.net(run.pool.held) - run.student(run.pool.held)).abs().mean())


def test_training_that_does_harm_leaves_the_calibrated_student():
    run, events = Run(), Recorder()
    run.prepare(Events())
    before = copy.deepcopy(run.student.state_dict())
    # Each step changes weights by several times their size.
    run.distill(events, dataclasses.replace(HELD_OUT, relative_lr={"weight": 5.0, "bias": 5.0, "scale": 5.0}))
    for (name, ours), theirs in zip(run.student.state_dict().items(), before.values(), strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), name
    assert all("student/held_out" in terms for kind, *_, terms in events.calls if kind == "cycle")
    assert run.state.best is None


def test_the_student_is_the_best_on_images_that_no_step_saw():
    run, seen = Run(), []
    run.prepare(Events())
    run.pool.add(torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    held = run.pool.first(2)
    forward = run.student.forward

    def note(images: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen.extend(images.detach().reshape(len(images), -1))
        return forward(images)

    run.student.forward = note
    settings = CycleSettings(
        cycles=4,
        generator_steps=0,
        student_steps=20,
        held_out=2,
        relative_lr={"weight": 0.01},
        augment={"max_shift": 0},
    )
    run.pool.hold_out(2)
    before = held_out_distance(run)
    run.distill(Events(), settings)
    assert held_out_distance(run) < before
    flipped = [*held.flatten(1), *held.flip(-1).flatten(1)]
    assert seen and not any(torch.equal(one, other) for one in seen for other in flipped)


@pytest.mark.parametrize("settings", [SETTINGS, HELD_OUT], ids=["all-images", "held-out"])
@pytest.mark.parametrize("step", [1, 2, 4, 6, 8], ids=lambda step: f"step-{step}")
def test_stopped_and_continued_is_as_never_stopped(settings, step):
    """Bit by bit, from a state of plain values: in generator and student steps of both cycles."""
    expected = Run()
    expected.prepare(Events())
    expected.distill(Events(), settings)
    run, events = Run(), Recorder(stop=("distill", step))
    run.prepare(Events())
    events.state = run.snapshot
    with pytest.raises(KeyboardInterrupt):
        run.distill(events, settings)
    again = Run()
    again.restore(events.saved)
    again.distill(Events(), settings)
    assert again.pool.sha256() == expected.pool.sha256()
    for (name, ours), theirs in zip(again.student.state_dict().items(), expected.student.state_dict().values()):
        # SQNRs are NaN before they are measured
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), name


@pytest.mark.parametrize(("asked", "held"), [(1, 1), (6, 1), (0, 0)])
def test_at_most_a_quarter_is_held_out(asked, held):
    run = Run()
    run.prepare(Events())
    run.distill(Events(), dataclasses.replace(SETTINGS, held_out=asked))
    assert run.pool.state_dict()["held"] == held


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"cycles": -1}, "must not be negative", id="negative"),
        pytest.param({"fresh": 2}, "use 0 to 1", id="share"),
        pytest.param({"relative_lr": {"weights": 1}}, "unknown keys weights", id="rates"),
    ],
)
def test_settings_that_are_not_valid_are_refused(options, message):
    with pytest.raises(GenerationError, match=message):
        CycleSettings(**options)
