"""What is shown and kept."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image
from rich.console import Console
from torch import nn

from psaq_mm.engine import CycleLogHook, DFQRunner, ProgressHook, SamplesHook, StateHook
from psaq_mm.models import pixel_bounds
from psaq_mm.visualization.samples import image_grid


class Records:
    """Stands in for a logger, a visualiser or a runner: remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def runner(**attributes) -> SimpleNamespace:
    return SimpleNamespace(
        **{"shows_progress": True, "state": SimpleNamespace(distill=SimpleNamespace(cycle=0)), **attributes}
    )


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to."""
    now = [100.0]
    monkeypatch.setattr("psaq_mm.engine.hooks.progress.time.monotonic", lambda: now[0])
    return now


def progress(terminal: bool, **options) -> ProgressHook:
    hook = ProgressHook(**options)
    hook.console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=100)
    return hook


def stage(hook: ProgressHook, run: SimpleNamespace, clock: list[float], steps: int, seconds: float) -> str:
    hook.before_stage(run, "generate", total=steps)
    for step in range(1, steps + 1):
        clock[0] += seconds
        hook.after_stage_step(run, "generate", step)
    hook.after_stage(run, "generate")
    return hook.console.file.getvalue()


def test_without_a_terminal_lines_tell_rate_and_time_left(clock):
    text = stage(progress(terminal=False, seconds=15), runner(), clock, steps=20, seconds=2.0)
    assert text.splitlines() == [
        "  generating images: 8/20, 2.0 s each, 24 s left",
        "  generating images: 16/20, 2.0 s each, 8 s left",
        "  generating images: 20 steps in 40 s",
    ]


def test_fast_steps_are_told_by_the_second(clock):
    text = stage(progress(terminal=False, seconds=1), runner(), clock, steps=9, seconds=0.25)
    assert text.splitlines()[0] == "  generating images: 4/9, 4.0/s, 1 s left"


def test_on_a_terminal_there_is_a_bar(clock):
    text = stage(progress(terminal=True), runner(), clock, steps=3, seconds=2.0)
    assert "generating images" in text and "3 steps in 6 s" in text


def test_a_stopped_run_leaves_no_bar(clock):
    hook = progress(terminal=True)
    hook.before_stage(runner(), "generate", total=3)
    assert hook._bar is not None
    hook.after_run(runner())
    assert hook._bar is None


def test_progress_stays_quiet_where_the_log_is_shown(clock):
    hook = progress(terminal=False, seconds=0)
    assert stage(hook, runner(shows_progress=False), clock, steps=3, seconds=1.0) == ""


def test_the_evaluation_is_a_stage_too(clock):
    hook, run = progress(terminal=False, seconds=1), runner(test_dataloader=range(4))
    hook.before_test(run)
    clock[0] += 2
    hook.after_test_iter(run, batch_idx=0)
    hook.after_test(run)
    assert hook.console.file.getvalue().splitlines() == [
        "  evaluating: 1/4, 2.0 s each, 6 s left",
        "  evaluating: 4 steps in 2 s",
    ]


def test_a_cycle_is_a_line_and_scalars():
    run = runner(logger=Records(), visualizer=Records())
    CycleLogHook().after_cycle(run, cycle=2, cycles=6, terms={"generator/loss/entropy": -1.23456, "student/x": 1e-7})
    ((name, (line,), _),) = run.logger.calls
    assert (name, line) == ("info", "cycle 2/6  generator/loss/entropy: -1.235  student/x: 1e-07")
    ((name, (terms,), more),) = run.visualizer.calls
    assert name == "add_scalars" and len(terms) == 2 and more == {"step": 2}


def test_the_state_is_saved_after_stages_and_every_so_many_cycles():
    hook, saves = StateHook(interval=2), []
    run = runner(state=SimpleNamespace(save=lambda: saves.append(1)))
    hook.after_stage(run, "generate")
    hook.after_stage(run, "calibrate")
    assert len(saves) == 2
    for cycle in (1, 2, 3, 4):
        hook.after_cycle(run, cycle=cycle, cycles=4, terms={})
    assert len(saves) == 4


def test_a_grid_by_hand():
    low, high = torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 2.0])
    images = torch.stack([torch.tensor([v, 0.5, 2.0]).view(3, 1, 1).expand(3, 2, 3) for v in (-1.0, 1.0, 0.0)])
    grid = image_grid(images, low, high, columns=2)
    # two rows of two, 2x3 pixels each, two white pixels between; 127.5 is rounded to even
    assert grid.shape == (6, 8, 3) and grid.dtype == np.uint8
    assert grid[0, 0].tolist() == [0, 128, 255] and grid[0, 5].tolist() == [255, 128, 255]
    assert grid[4, 0].tolist() == [128, 128, 255]
    assert (grid[2:4] == 255).all() and (grid[:, 3:5] == 255).all() and (grid[4:, 5:] == 255).all()


@pytest.mark.parametrize("rgb", [True, False], ids=["rgb", "bgr"])
def test_samples_are_saved_in_the_order_of_pictures(tmp_path, rgb):
    image = torch.zeros(1, 3, 4, 4)
    image[:, 0 if rgb else 2] = 255.0  # red
    preprocessor = SimpleNamespace(_enable_normalize=False, _channel_conversion=rgb)
    pool = SimpleNamespace(newest=image, images=image)
    run = runner(
        visualizer=Records(),
        teacher=SimpleNamespace(data_preprocessor=preprocessor, backbone=nn.Conv2d(3, 1, 1)),
        pool=pool,
        folder=tmp_path,
    )
    SamplesHook().after_stage(run, "generate")
    assert np.asarray(Image.open(tmp_path / "samples.png"))[0, 0].tolist() == [255, 0, 0]
    saved = torch.load(tmp_path / "samples.pth", weights_only=True)["state_dict"]["images"]
    assert torch.equal(saved, image)
    SamplesHook().after_stage(run, "calibrate")
    assert len(run.visualizer.calls) == 1


def test_bounds_are_the_preprocessors():
    mean, std = torch.tensor([100.0, 0.0, 255.0]).view(3, 1, 1), torch.tensor([50.0, 1.0, 255.0]).view(3, 1, 1)
    preprocessor = SimpleNamespace(_enable_normalize=True, mean=mean, std=std)
    model = SimpleNamespace(data_preprocessor=preprocessor, backbone=nn.Conv2d(3, 1, 1))
    low, high = pixel_bounds(model)
    assert low.tolist() == [-2.0, 0.0, -1.0]
    torch.testing.assert_close(high, torch.tensor([3.1, 255.0, 0.0]))


class Events(Hook):
    """Writes down which of our events came, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def before_stage(self, runner, stage, total):
        self.seen.append(f"{stage}:{total}")

    def after_stage_step(self, runner, stage, step):
        self.seen.append(f"{stage} {step}")

    def after_stage(self, runner, stage, **_):
        self.seen.append(f"{stage}.")

    def after_cycle(self, runner, cycle, cycles, terms):
        self.seen.append(f"cycle {cycle}/{cycles}")


def test_the_order_of_events(recipe):
    events, run = Events(), DFQRunner.from_cfg(recipe({"dfq.generate.steps": 1, "dfq.generate.generator.warmup": 0}))
    run.register_hook(events)
    run.train()
    assert events.seen == [
        *("generate:2", "generate 1", "generate 2", "generate."),
        *("calibrate:2", "calibrate 1", "calibrate 2", "calibrate."),
        *("distill:4", "distill 1", "distill 2", "distill 3", "distill 4", "cycle 1/1", "distill."),
    ]


def test_tensorboard_by_config(recipe):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = DFQRunner.from_cfg(recipe({"visualizer.vis_backends": [{"type": "TensorboardVisBackend"}]}))
    run.train()
    run.visualizer.close()
    (folder,) = run.folder.glob("*/vis_data")
    found = events.EventAccumulator(str(folder))
    found.Reload()
    terms = {
        f"generator/{kind}/{term}" for kind in ("loss", "gradient") for term in ("entropy", "prior", "competition")
    }
    assert terms | {"student/discrepancy", "student/discrepancy_grad"} <= set(found.Tags()["scalars"])
    assert "samples" in found.Tags()["images"]
