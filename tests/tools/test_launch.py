"""The scripts that start several processes: what they call, and what they say when called wrongly."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

DIST, SLURM = "dist_dfq.sh", "slurm_dfq.sh"


def call(script: str, arguments: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with commands in the place of python and srun that print how they were called."""
    for name in ("python", "srun"):
        stand_in = folder / name
        stand_in.write_text(f'#!/usr/bin/env bash\necho {name} "$@"\n')
        stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    command = ["bash", str(ROOT / "tools" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_torchrun_gets_every_option(tmp_path):
    done = call(DIST, ["config.py", "4", "--resume", "--work-dir", "a b"], tmp_path, PORT="1234", NNODES="2")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.split()
        == (
            "python -m torch.distributed.run --nnodes=2 --node_rank=0 --nproc_per_node=4 --master_addr=127.0.0.1 "
            f"--master_port=1234 {ROOT}/tools/dfq.py config.py --launcher pytorch --resume --work-dir a b"
        ).split()
    )


def test_slurm_gets_no_more_devices_a_node_than_there_are(tmp_path):
    done = call(SLURM, ["part", "job", "config.py", "--resume"], tmp_path, GPUS="2", SRUN_ARGS="--quiet --nice")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.split()
        == (
            "srun -p part --job-name=job --gres=gpu:2 --ntasks=2 --ntasks-per-node=2 --cpus-per-task=5 "
            f"--kill-on-bad-exit=1 --quiet --nice python -u {ROOT}/tools/dfq.py config.py --launcher slurm --resume"
        ).split()
    )


@pytest.mark.parametrize("script", [DIST, SLURM])
def test_too_few_arguments_are_one_line(script, tmp_path):
    done = call(script, ["config.py"], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and done.stderr.count("\n") == 1
