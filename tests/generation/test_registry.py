"""Registration by decorator, import of a package's modules at the first look-up, errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from psaq_mm.generation import GenerationError
from psaq_mm.generation.registry import Registry


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """A registry over a package of a base and two modules, which nothing has imported."""
    package = tmp_path / "animals"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(
        "from psaq_mm.generation.registry import Registry\nANIMALS = Registry('animal', 'animals')\n"
    )
    for name in ("dog", "cat"):
        text = f"from .base import ANIMALS\n@ANIMALS.register\nclass Animal:\n    name = {name!r}\n"
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [one for one in sys.modules if one.split(".")[0] == "animals"]:
        monkeypatch.delitem(sys.modules, module)
    from animals.base import ANIMALS  # type: ignore[import-not-found]

    return ANIMALS


def test_a_file_is_all_that_a_class_needs(animals: Registry[object]) -> None:
    assert animals.names == ["cat", "dog"]
    assert animals.get("dog").__module__ == "animals.dog"


@pytest.mark.parametrize("name", ["cow", None, ["dog"]], ids=["unknown", "none", "list"])
def test_unknown_names_list_those_that_exist(animals: Registry[object], name: str) -> None:
    with pytest.raises(GenerationError, match="animal .* is unknown: choose one of cat, dog"):
        animals.get(name)


def test_a_name_is_taken_once(animals: Registry[object]) -> None:
    class Other:
        name = "dog"

    assert animals.names
    with pytest.raises(GenerationError, match="'dog' is registered twice"):
        animals.register(Other)
