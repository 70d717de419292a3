"""Names of classes: what is registered, what was removed and what is unknown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from psaq_mm.quantization import QuantizationError
from psaq_mm.quantization.registry import Registry, import_modules


class First:
    pass


class Second:
    pass


@pytest.fixture
def registry() -> Registry[Any]:
    registry: Registry[Any] = Registry("method", removed={"old": "use 'first'"})
    registry.register("first")(First)
    registry.register("a_second")(Second)
    return registry


def test_classes_are_found_by_name(registry: Registry[Any]) -> None:
    assert registry.get("first") is First and registry.names == ("a_second", "first")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("third", "method 'third' is unknown: use one of a_second, first", id="unknown"),
        pytest.param(["first"], "method ['first'] is unknown: use one of a_second, first", id="list"),
        pytest.param("old", "method 'old' was removed: use 'first'", id="removed"),
    ],
)
def test_other_names_are_refused(registry: Registry[Any], name: Any, message: str) -> None:
    with pytest.raises(QuantizationError) as error:
        registry.get(name)
    assert str(error.value) == message


def test_a_name_has_one_class(registry: Registry[Any]) -> None:
    registry.register("first")(First)
    with pytest.raises(QuantizationError, match="'first' is registered twice"):
        registry.register("first")(Second)


def test_modules_of_a_folder_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plugins_of_the_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "one.py").write_text("import sys\nsys.imported_by_the_test = __name__\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_modules(folder.name, [str(folder)])
    assert sys.__dict__.pop("imported_by_the_test") == "plugins_of_the_test.one"
