"""The pages' tables are those of the records, and the commands and programs of ``docs/deploy.md`` run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dev.report import fill
from tests.conftest import ROOT

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra [deploy] is not installed")
PAGE = (ROOT / "docs" / "deploy.md").read_text()
FENCE = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("name", ["deploy.md", "running.md"])
def test_tables_are_those_of_the_records(name):
    page = (ROOT / "docs" / name).read_text()
    assert fill(page, ROOT / "results") == page, "run: make tables"


def walk_through(run_here) -> int:
    """Run all but what quantizes, from the working directory, in the page's order."""
    import mmdet

    ran = 0
    for language, code in FENCE.findall(PAGE):
        if language == "python":
            exec(compile(code, "docs/deploy.md", "exec"), {})
            ran += 1
            continue
        for line in code.strip().splitlines():
            python, tool, *arguments = shlex.split(line)
            assert python == "python"
            if tool == "-m":
                tool, *arguments = arguments
                tool = f"{tool.replace('.', '/')}.py"
            if tool.startswith("MMDET"):
                script = Path(mmdet.__file__).parent / ".mim" / Path(tool).relative_to("MMDET")
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True)
                assert done.returncode == 0, done.stderr[-2000:]
            elif tool != "tools/dfq.py":
                if arguments[0].startswith("configs/"):
                    arguments[0] = str(ROOT / arguments[0])
                outcome = run_here(tool.removeprefix("tools/"), *arguments)
                assert (outcome.code, outcome.err) == (0, ""), line
            ran += 1
    return ran


def test_the_page_takes_a_reader_through(run_here, finished, tmp_path, monkeypatch):
    """On the shrunken detector of the tests, which step 1 would have made in minutes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.runner.work_dir, "work_dirs/detector")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save("image.png")
    assert walk_through(run_here) == 9
    assert {path.name for path in Path("deploy").iterdir()} >= {
        "detector.onnx",
        "parity.json",
        "times.json",
        "openvino",
    }
