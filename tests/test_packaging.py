"""What the wheel holds, and what it asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("psaq_mm", "configs", "tools", "requirements")
BESIDE = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "model-index.yml")


def copy_of_the_tree(target: Path) -> Path:
    """The sources alone, so that a build leaves nothing in the checkout."""
    target.mkdir()
    for name in BUILT_FROM:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_of_the_tree(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--quiet"]
    options = ["--disable-pip-version-check", "--wheel-dir", str(folder), str(source)]
    built = subprocess.run([*command, *options], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_it_holds_what_mim_looks_for(wheel):
    expected = {"psaq_mm/.mim/model-index.yml"}
    for folder, suffixes in (("configs", (".py", ".pth")), ("tools", (".py",))):
        files = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
        expected |= {f"psaq_mm/.mim/{path.relative_to(ROOT).as_posix()}" for path in files}
    assert "psaq_mm/.mim/configs/mask_rcnn_swin_s_w8a8.py" in expected
    assert {name for name in wheel.namelist() if ".mim/" in name} == expected


def test_it_holds_the_package_and_nothing_else(wheel):
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "psaq_mm").rglob("*.py")}
    modules = {name for name in wheel.namelist() if ".mim/" not in name and ".dist-info/" not in name}
    assert modules == expected


def test_openmmlab_comes_by_extras_alone(metadata):
    assert metadata["Name"].replace("-", "_") == "psaq_mm"
    assert metadata["Requires-Python"] == ">=3.10"
    always = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in always)
    assert not [line for line in always if line.startswith(("mm", "onedl"))]
    assert set(metadata.get_all("Provides-Extra")) == {"onedl", "openmmlab"}
