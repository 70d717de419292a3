"""Installed into a clean environment, a shrunken job runs from an empty folder, as ``mim run psaq_mm dfq`` starts it.

mim itself pins packages that do not go with the rest and is not among the requirements: what it does is find the tool's
file below a folder of the installed package, and run it with its own interpreter and the arguments as they came.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

from tests.test_packaging import build, copy_of_the_tree

SHRUNKEN = [
    "test_dataloader.dataset.images=4",
    "dfq.generate.images=4",
    "dfq.generate.image_size=(64,64)",
    "dfq.generate.batch_size=2",
    "dfq.generate.steps=1",
    "dfq.generate.generator.warmup=0",
    "dfq.calibrate.images=4",
    "dfq.distill.cycles=1",
    "dfq.distill.generator_steps=1",
    "dfq.distill.generator_images=2",
    "dfq.distill.student_steps=1",
    "dfq.distill.batch_size=2",
]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return copy_of_the_tree(tmp_path_factory.mktemp("tree") / "source")


@pytest.fixture(params=["wheel", "sdist", "editable"])
def installed(request, source, tmp_path):
    """The interpreter of an environment of its own, which takes torch and OpenMMLab from this one."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip())
    shared = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    # Of a folder named in a .pth file, the .pth files are not read: an editable psaq_mm in it stays out of sight.
    (own / "shared.pth").write_text("\n".join(shared) + "\n")
    what = ["--editable", source] if request.param == "editable" else [build(request.param, source, tmp_path / "built")]
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--no-build-isolation", *what, cwd=tmp_path)
    return python, own, source if request.param == "editable" else None


def mim_folder(own: Path, checkout: Path | None) -> Path:
    """Where onedl-mim takes a package to be: its checkout, or the first folder of its RECORD."""
    if checkout:
        return checkout
    (distribution,) = metadata.distributions(name="psaq_mm", path=[str(own)])
    return own / str(distribution.files[0]).split("/")[0] / ".mim"


@pytest.mark.full
def test_a_job_runs_from_an_empty_folder(installed, tmp_path):
    python, own, checkout = installed
    empty = tmp_path / "empty"
    empty.mkdir()
    package = run(python, "-c", "import psaq_mm; print(psaq_mm.__file__)", cwd=empty).stdout.strip()
    assert Path(package).is_relative_to(checkout or own)
    folders = {mim_folder(own, checkout), Path(package).parent / ".mim"}
    assert all((folder / name).is_file() for folder in folders for name in ("model-index.yml", "tools/dfq.py"))
    tool = mim_folder(own, checkout) / "tools" / "dfq.py"
    done = run(python, tool, "demo/mask_rcnn_swin_nano_w8a8", "--cfg-options", *SHRUNKEN, cwd=empty)
    assert "quantizing to W8A8" in " ".join(done.stdout.split())
    work = empty / "work_dirs" / "mask_rcnn_swin_nano_w8a8"
    record = json.loads((work / "results.json").read_text())
    assert record["images"] == 4 and Path(record["config"]).name == "mask_rcnn_swin_nano_w8a8.py"
    fp, quantized = record["rows"]
    assert (fp["arm"], quantized["arm"]) == ("fp32", "psaq")
    # The real checkpoint, not random weights: on any handful of scenes it finds most of what is there.
    assert fp["metrics"]["coco/bbox_mAP"] > 0.3
    assert {path.name for path in empty.iterdir()} == {"work_dirs", "data"}
    assert (work / "quantized.py").is_file() and (work / "quantized.pth").is_file()
