"""What wheel, sdist and editable install hold, and what they ask for. tests/test_install.py installs and runs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
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
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".mim"))
    for name in BESIDE:
        shutil.copy2(ROOT / name, target / name)
    return target


def build(kind: str, source: Path, target: Path, settings: dict | None = None) -> Path:
    """What pip asks setuptools for: ``kind`` is wheel, sdist or editable."""
    target.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r}, {settings!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("psaq_mm-*")
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return copy_of_the_tree(tmp_path_factory.mktemp("tree") / "source")


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    with zipfile.ZipFile(build("wheel", source, tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def unpacked_sdist(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", source, folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def mim_files() -> set[str]:
    found = {"model-index.yml"}
    for folder, suffixes in (("configs", (".py", ".pth", ".yml", ".md")), ("tools", (".py", ".sh"))):
        files = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
        found |= {path.relative_to(ROOT).as_posix() for path in files}
    return found


def below(names: list[str], folder: str) -> set[str]:
    return {name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")}


def test_it_holds_what_mim_looks_for(wheel):
    expected = mim_files()
    assert {"configs/mask_rcnn_swin_s_w8a8.py", "configs/metafile.yml", "tools/dfq.py", "tools/dist_dfq.sh"} <= expected
    assert below(wheel.namelist(), "psaq_mm/.mim") == expected


def test_it_holds_no_benchmark_and_no_tool_of_the_repository(wheel):
    """They are for this checkout: a user cannot run them."""
    folders = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in folders if not name.startswith("psaq_mm-")} == {"psaq_mm"}
    assert not [name for name in wheel.namelist() if {"benchmarks", "dev", "tests"} & set(Path(name).parts)]


def test_it_holds_it_where_onedl_mim_looks(wheel):
    """onedl-mim takes the first folder of RECORD, which pip sorts; checkpoints need not be there a second time."""
    (first, *_) = sorted(wheel.namelist())
    folder = first.split("/")[0]
    assert folder.endswith(".dist-info")
    expected = {name for name in mim_files() if not name.endswith(".pth")}
    assert below(wheel.namelist(), f"{folder}/.mim") == expected


def test_the_sdist_makes_the_same_wheel(unpacked_sdist, wheel, tmp_path):
    with zipfile.ZipFile(build("wheel", unpacked_sdist, tmp_path)) as again:
        contents = [
            {one.filename: one.CRC for one in archive.infolist() if not one.filename.endswith("/RECORD")}
            for archive in (again, wheel)
        ]
    assert contents[0] == contents[1]


def test_an_unpacked_sdist_is_complete(unpacked_sdist):
    mim = unpacked_sdist / "psaq_mm" / ".mim"
    assert all((mim / name).is_file() for name in mim_files())
    assert (mim / "configs").samefile(unpacked_sdist / "configs")


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_an_editable_install_links_to_the_checkout(tmp_path, mode):
    source = copy_of_the_tree(tmp_path / "source")
    for _ in range(2):  # an install over an install
        build("editable", source, tmp_path / "wheels", {"editable_mode": mode}).unlink()
    mim = source / "psaq_mm" / ".mim"
    assert all((mim / name).samefile(source / name) for name in ("configs", "tools", "model-index.yml"))
    assert "psaq_mm/.mim/" in (ROOT / ".gitignore").read_text().splitlines()
    if mode == "strict":
        (linked,) = source.glob("build/__editable__*/psaq_mm/.mim")
        assert all((linked / name).samefile(source / name) for name in mim_files())


def test_a_wheel_from_an_editable_checkout_is_the_same(source, wheel, tmp_path):
    tree = copy_of_the_tree(tmp_path / "source")
    build("editable", tree, tmp_path / "editable")
    with zipfile.ZipFile(build("wheel", tree, tmp_path / "wheels")) as again:
        assert sorted(again.namelist()) == sorted(wheel.namelist())


def test_it_holds_the_package_and_nothing_else(wheel):
    page = (ROOT / "psaq_mm" / "report" / "page").iterdir()
    expected = {path.relative_to(ROOT).as_posix() for path in [*(ROOT / "psaq_mm").rglob("*.py"), *page]}
    modules = {name for name in wheel.namelist() if ".mim/" not in name and ".dist-info/" not in name}
    assert modules == expected


def test_openmmlab_comes_by_extras_alone(metadata):
    assert metadata["Name"].replace("-", "_") == "psaq_mm"
    assert metadata["Requires-Python"] == ">=3.10"
    always = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in always)
    assert not [line for line in always if line.startswith(("mm", "onedl", "onnx", "openvino"))]
    assert set(metadata.get_all("Provides-Extra")) == {"deploy", "language", "onedl", "openmmlab"}
