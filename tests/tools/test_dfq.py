"""The command line as a newcomer types it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT

TOOL = ROOT / "tools" / "dfq.py"
# As many threads as here: how sums are split over them decides their last bits.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}


def start(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, *launcher, str(TOOL), *arguments]
    pipe = subprocess.PIPE
    # A group of its own, so that launched workers end with their launcher.
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, cwd=ROOT, start_new_session=True
    )


def run(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    process = start(*arguments, launcher=launcher)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def written(recipe, tmp_path):
    """Writes the shrunken recipe with some keys changed."""

    def write(options: dict | None = None) -> str:
        recipe(options).dump(tmp_path / "recipe.py")
        return str(tmp_path / "recipe.py")

    return write


def state_of(folder: Path) -> dict:
    return torch.load(folder / "quantized.pth", weights_only=True)["state_dict"]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_from_recipe_to_figures(run_dfq, tmp_path, finished):
    outcome = run_dfq()
    assert outcome.code == 0
    said = " ".join(outcome.out.split())
    for part in ("evaluating the float model", "quantizing to W8A8, scheme deploy, scope backbone, without data"):
        assert part in said
    for part in ("fp32", "W8A8", "quantized.py", "quantized.pth", "samples.png", "results.json"):
        assert part in said
    assert "generating images: 6 steps in" in outcome.err
    record = json.loads((tmp_path / "work" / "results.json").read_text())
    assert [row["metrics"] for row in record["rows"]] == [row.metrics for row in finished.results.rows]
    assert equal(state_of(tmp_path / "work"), state_of(finished.runner.folder))


def test_without_the_data_the_artifact_is_delivered(run_dfq, tmp_path):
    missing = {"type": "CocoDataset", "data_root": "/proc/none/", "ann_file": "val.json", "_delete_": True}
    outcome = run_dfq({"test_dataloader.dataset": missing, "dfq.distill.cycles": 0})
    assert outcome.code == 0, outcome.err
    assert " ".join(outcome.out.split()).count("evaluation skipped: /proc/none/val.json is not there") == 2
    assert (tmp_path / "work" / "quantized.pth").exists() and (tmp_path / "work" / "quantized.py").exists()
    record = json.loads((tmp_path / "work" / "results.json").read_text())
    assert [row["metrics"] for row in record["rows"]] == [{}, {}] and record["images"] == 0


def test_options_of_the_command_line(run_dfq, recipe, tmp_path, tiny_checkpoint):
    recipe({"load_from": "nowhere.pth"}).dump(tmp_path / "recipe.py")
    arguments = ["--checkpoint", str(tiny_checkpoint), "--work-dir", str(tmp_path / "other")]
    options = ["--cfg-options", "dfq.quantization.weight_bits=4", "dfq.distill.cycles=0", "dfq.arm=psaq-calib"]
    outcome = run_dfq(None, *arguments, *options, config=tmp_path / "recipe.py")
    assert outcome.code == 0, outcome.err
    row = json.loads((tmp_path / "other" / "results.json").read_text())["rows"][1]
    assert (row["arm"], row["weight_bits"], row["activation_bits"]) == ("psaq-calib", 4, 8)
    assert not (tmp_path / "work").exists()


def test_resume_goes_on(run_dfq, tmp_path, finished, monkeypatch):
    """Both rows are made again, the student is not."""
    assert run_dfq().code == 0
    monkeypatch.setattr("psaq_mm.distillation.ImageGenerator.optimize", None)
    outcome = run_dfq(None, "--resume")
    assert outcome.code == 0, outcome.err
    assert equal(state_of(tmp_path / "work"), state_of(finished.runner.folder))


def test_a_run_that_falls_back_says_so_on_the_terminal(run_dfq, tmp_path, finished):
    """One line, without what mmengine warns of by the way."""
    assert run_dfq().code == 0
    newest = tmp_path / "work" / "dfq_state.pth"
    shutil.copy(newest, newest.with_suffix(".previous.pth"))
    newest.write_bytes(newest.read_bytes()[:1000])
    outcome = run_dfq(None, "--resume")
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in (outcome.out + outcome.err).splitlines() if "WARNING" in line]
    assert line.startswith(f"WARNING: {newest} is missing or cannot be used: going on from the state before it")
    assert equal(state_of(tmp_path / "work"), state_of(finished.runner.folder))


def test_a_real_process_says_one_line_and_exits_with_2(written, tmp_path):
    done = run(written({"dfq.quantization.weight_bits": 9}))
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: bits=9 is not valid: use an integer from 2 to 8"]


@pytest.mark.full
def test_a_traceback_where_asked_for(written):
    done = run(written({"dfq.quantization.weight_bits": 9}), "--traceback")
    assert done.returncode == 1 and "Traceback" in done.stderr and "bits=9 is not valid" in done.stderr


@pytest.mark.full
def test_help_names_every_option():
    done = run("--help")
    for option in ("--checkpoint", "--work-dir", "--resume", "--launcher", "--cfg-options", "--traceback"):
        assert option in done.stdout


@pytest.mark.full
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda way: way.name)
def test_a_stopped_process_leaves_no_half_files_and_resumes(written, tmp_path, finished, way):
    config, work = written(), tmp_path / "work"
    process = start(config)
    until = time.monotonic() + 200
    while not (work / "dfq_state.pth").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(way)
    process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before it could be stopped")
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[way]
    assert not (work / "quantized.pth").exists()
    torch.load(work / "dfq_state.pth", weights_only=True)
    done = run(config, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert equal(state_of(work), state_of(finished.runner.folder))


@pytest.mark.full
def test_four_kills_change_no_bit_and_no_figure(written, tmp_path):
    """Each a while after the run has come further than at the kill before."""
    # Of some ten seconds, so that four kills fall into it on a fast machine too.
    longer = {"dfq.generate.steps": 50, "dfq.generate.generator.save_interval": 2, "dfq.distill.cycles": 20}
    config, chance = written(longer), random.Random(0)
    folders = [tmp_path / "whole", tmp_path / "killed"]
    assert run(config, "--work-dir", str(folders[0])).returncode == 0
    state, kills = folders[1] / "dfq_state.pth", 0
    while kills < 4:
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(config, "--work-dir", str(folders[1]), "--resume")
        wait_for(lambda process=process, before=before: gone_on(process, state, before))
        time.sleep(chance.uniform(0, 0.5))
        assert process.poll() is None, "it was done before it could be killed four times"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        kills += 1
        assert not (folders[1] / "quantized.pth").exists()
    done = run(config, "--work-dir", str(folders[1]), "--resume")
    assert done.returncode == 0, done.stderr
    assert equal(*(state_of(folder) for folder in folders))
    records = [json.loads((folder / "results.json").read_text())["rows"][-1] for folder in folders]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["samples_sha256"] == records[1]["samples_sha256"]


def wait_for(condition, seconds: float = 200) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"it did not happen in {seconds} s"
        time.sleep(0.005)


def gone_on(process: subprocess.Popen, state: Path, before: int) -> bool:
    """Whether a run has ended or written a state since."""
    return process.poll() is not None or (state.exists() and state.stat().st_mtime_ns > before)


@pytest.fixture
def two_processes(written, tmp_path):
    """The arguments of a run in two processes, and those of what launches it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tmp_path / "fresh"  # drawn by both at once, if they were let
    options = {
        "env_cfg.dist_cfg.backend": "gloo",
        "test_dataloader.dataset.data_root": f"{data}/",
        "test_evaluator.ann_file": f"{data}/val.json",
    }

    def arguments(more: dict | None = None) -> tuple[list[str], tuple[str, ...]]:
        launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}")
        return [written({**options, **(more or {})}), "--launcher", "pytorch"], launcher

    return arguments


@pytest.mark.full
def test_two_processes_finish_and_agree(two_processes, tmp_path):
    arguments, launcher = two_processes()
    done = run(*arguments, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("W8A8, scheme") == done.stdout.count("fp32") == 1
    work = tmp_path / "work"
    record = json.loads((work / "results.json").read_text())
    assert [row["arm"] for row in record["rows"]] == ["fp32", "psaq"]
    states = [torch.load(work / name, weights_only=True) for name in ("dfq_state.pth", "dfq_state1.pth")]
    # 4 first images and 2 of the cycle, half of them by each; gradients are averaged, so the students stay the same
    names = states[0]["pool"]["names"]
    assert len(names) == 4 + 2 and names == states[1]["pool"]["names"]
    assert all({path.stem for path in (work / folder).iterdir()} == set(names) for folder in ("pool", "pool1"))
    # float32 all the way, the same operations on both: equal to the bit
    for key, value in states[0]["student"].items():
        # the SQNR is not measured yet: NaN
        torch.testing.assert_close(value, states[1]["student"][key], rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.full
def test_a_process_that_dies_ends_the_others_and_all_resume(two_processes, tmp_path):
    arguments, launcher = two_processes({"dfq.distill.cycles": 6})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(*arguments, "--work-dir", str(whole), launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    process = start(*arguments, "--work-dir", str(killed), launcher=launcher)
    state = killed / "dfq_state1.pth"
    wait_for(lambda: process.poll() is not None or cycle_of(state) >= 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [pid for pid in children if "dfq.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode not in (0, None) and "SIGKILL" in err
    assert not (killed / "quantized.pth").exists()
    done = run(*arguments, "--work-dir", str(killed), "--resume", launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert equal(state_of(whole), state_of(killed))


def cycle_of(state: Path) -> int:
    """How many cycles a state has behind it; 0 where there is none, or just then a newer one takes its place."""
    try:
        return torch.load(state, weights_only=True).get("cycle", 0)
    except FileNotFoundError:
        return 0
