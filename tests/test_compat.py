"""What a user reads when something is missing or does not fit."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from importlib import metadata

import pytest
import torch
from mmengine.config import utils

from psaq_mm import compat


def hide(monkeypatch, *hidden):
    """Let ``find_spec`` find everything but these modules."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest))


def break_import(monkeypatch, broken, error):
    """Let the import of one module raise an error."""
    load = importlib.import_module

    def fake(name, *rest):
        if name == broken:
            raise error
        return load(name, *rest)

    monkeypatch.setattr(importlib, "import_module", fake)


def message():
    with pytest.raises(ImportError) as caught:
        compat.check_environment()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("upstream", [True, False], ids=["upstream", "maintained"])
def test_mmsegs_configs_are_found_under_either_name(monkeypatch, upstream):
    version = metadata.version
    distributions = {"mmsegmentation": "1.2.2"} if upstream else {}

    def fake(name):
        if name != "mmsegmentation":
            return version(name)
        if name not in distributions:
            raise metadata.PackageNotFoundError(name)
        return distributions[name]

    monkeypatch.setattr(metadata, "version", fake)
    monkeypatch.setitem(utils.MODULE2PACKAGE, "mmseg", "mmsegmentation")
    compat.name_mmseg_configs()
    assert utils.MODULE2PACKAGE["mmseg"] == ("mmsegmentation" if upstream else "mmseg")


def test_this_environment_fits():
    compat.check_environment()


@pytest.mark.parametrize("name", ["torch", "mmengine", "mmcv"])
def test_a_missing_package_is_named_with_both_ways_to_install(monkeypatch, name):
    hide(monkeypatch, name)
    text = message()
    assert text.startswith(f"psaq_mm needs {name}, which is not installed")
    assert "psaq_mm[onedl]" in text and "psaq_mm[openmmlab]" in text


def test_mmcv_lite_is_recognised(monkeypatch):
    hide(monkeypatch, "mmcv._ext")
    assert "mmcv-lite" in message() and "MMCV_WITH_OPS=1" in message()


def test_mmcv_of_another_torch_is_recognised(monkeypatch):
    break_import(monkeypatch, "mmcv._ext", ImportError("undefined symbol"))
    text = message()
    assert f"another torch than {torch.__version__}" in text and "--no-cache-dir" in text


def test_missing_torchvision_is_recognised(monkeypatch):
    break_import(monkeypatch, "torchvision", ModuleNotFoundError("No module named 'torchvision'"))
    assert "needs torchvision" in message()


@pytest.mark.parametrize(("version", "index"), [("2.13.0+cpu", "cpu"), ("2.13.0+cu130", "cu130"), ("2.13.0", "cpu")])
def test_torchvision_of_another_torch_gets_the_matching_index(monkeypatch, version, index):
    break_import(monkeypatch, "torchvision", RuntimeError("operator torchvision::nms does not exist"))
    monkeypatch.setattr(torch, "__version__", version)
    text = message()
    assert f"does not fit torch {version}" in text
    assert text.endswith(f"https://download.pytorch.org/whl/{index}")


def test_versions_know_both_distributions(monkeypatch):
    installed = {"torch": "2.5.1", "mmengine": "0.10.7", "onedl-mmdetection": "3.5.1"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert compat.versions() == {"torch": "2.5.1", "mmengine": "0.10.7", "mmdet": "3.5.1"}


def test_quiet_imports_print_nothing_and_skip_what_is_missing(monkeypatch, tmp_path, capsys):
    (tmp_path / "psaq_test_loud.py").write_text("import warnings\nprint('loud')\nwarnings.warn('loud')\n")
    monkeypatch.syspath_prepend(tmp_path)
    compat.import_quietly("psaq_test_loud", "psaq_test_missing.part")
    assert "psaq_test_loud" in sys.modules
    assert capsys.readouterr().out == ""


class TestSafeGlobals:
    """The three generations of torch's allow-list."""

    pair = (dict, "old.name.of.dict")

    def asked_for(self, monkeypatch, version):
        asked = []

        @contextlib.contextmanager
        def context(allowed):
            asked.extend(allowed)
            yield

        monkeypatch.setattr(torch, "serialization", types.SimpleNamespace(safe_globals=context))
        monkeypatch.setattr(torch, "__version__", version)
        with compat.safe_globals([list, self.pair]):
            return asked

    @pytest.mark.parametrize("version", ["2.6.0", "2.14.1+cu130", "3.0.0a0"])
    def test_renamed_objects_where_torch_knows_them(self, monkeypatch, version):
        assert self.asked_for(monkeypatch, version) == [list, self.pair]

    def test_no_renamed_objects_before_2_6(self, monkeypatch):
        assert self.asked_for(monkeypatch, "2.5.1") == [list]

    def test_nothing_to_do_before_2_5(self, monkeypatch):
        monkeypatch.setattr(torch, "serialization", types.SimpleNamespace())
        with compat.safe_globals([list, self.pair]):
            pass

    def test_the_list_ends_with_the_context(self):
        with compat.safe_globals([types.SimpleNamespace]):
            assert types.SimpleNamespace in torch.serialization.get_safe_globals()
        assert types.SimpleNamespace not in torch.serialization.get_safe_globals()
