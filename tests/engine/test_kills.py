"""SIGKILL at random moments of every stage: what is left resumes, and ends as a run that was never killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from psaq_mm.engine.run_state import readable_states
from psaq_mm.utils.image_store import DiskImageStore

KILLS = 20
LONGER = {
    "dfq.generate.steps": 12,
    "dfq.generate.generator.save_interval": 2,
    "dfq.distill.cycles": 4,
    "dfq.distill.generator_steps": 4,
    "dfq.distill.student_steps": 4,
}
FINAL = ("quantized.pth", "quantized.py", "coverage.json")


def work(config: str, folder: str, started: Connection) -> None:
    """A run, or the rest of one, in a process of its own."""
    import mmengine.runner.runner

    from psaq_mm.engine import DFQRunner

    mmengine.runner.runner.collect_env = dict  # it asks the compiler for its version: half a second
    torch.set_num_threads(1)
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.resume = folder, True
    runner = DFQRunner.from_cfg(cfg)
    runner.prepare()
    started.send(True)
    runner.train()


class Worker:
    """Starts runs in processes that have imported everything beforehand and share no threads with this one."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["psaq_mm.engine", "mmdet.models", "mmdet.datasets", "mmdet.evaluation", __name__]
        )

    def start(self, folder: Path) -> multiprocessing.process.BaseProcess:
        here, there = self.context.Pipe()
        process = self.context.Process(target=work, args=(str(self.config), str(folder), there))
        process.start()
        assert here.poll(120), "the run did not start"
        return process


@pytest.fixture(scope="module")
def worker(tiny_recipe, tiny_checkpoint, tmp_path_factory) -> Worker:
    path = tmp_path_factory.mktemp("kills") / "recipe.py"
    cfg = Config(tiny_recipe.to_dict())
    cfg.merge_from_dict(LONGER)
    cfg.dump(path)
    return Worker(path)


def finish(worker: Worker, folder: Path) -> float:
    """Seconds of the rest of a run."""
    process, start = worker.start(folder), time.monotonic()
    process.join(120)
    assert process.exitcode == 0
    return time.monotonic() - start


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "quantized.pth", weights_only=True)["state_dict"]


@pytest.mark.full
def test_twenty_kills_change_no_bit(worker, tmp_path):
    whole = tmp_path / "whole"
    seconds = finish(worker, whole)
    expected, chance = tensors(whole), random.Random(0)
    kills, runs, stages = 0, 0, set()
    while kills < KILLS:
        folder = tmp_path / f"run{runs}"
        runs += 1
        while kills < KILLS and not (folder / "quantized.pth").exists():
            process = worker.start(folder)
            time.sleep(chance.uniform(0, 0.5 * seconds))
            if process.exitcode is not None:
                assert process.exitcode == 0
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            states = sorted(folder.glob("dfq_state*.pth"))
            if states and not any((folder / name).exists() for name in FINAL):
                _, state = readable_states(folder / "dfq_state.pth", DiskImageStore(folder / "pool"))[0]
                stages.add(len(state["done"]) + state["distill"]["cycle"])
        finish(worker, folder)
        found = tensors(folder)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), f"{key} after {kills} kills"
    assert len(stages) >= 3, f"the kills fell into too few stages: {stages}"
