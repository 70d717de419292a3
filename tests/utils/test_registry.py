"""Names of classes: import of a package's modules at the first look-up, what is registered, removed and unknown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from psaq_mm.errors import QuantizationError
from psaq_mm.utils.registry import Registry


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """A registry over a package of a base and two modules, which nothing has imported."""
    package = tmp_path / "animals"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(
        "from psaq_mm.errors import QuantizationError\n"
        "from psaq_mm.utils.registry import Registry\n"
        "ANIMALS = Registry('animal', QuantizationError, 'animals', {'wolf': \"use 'dog'\"})\n"
    )
    for name in ("dog", "cat"):
        text = f"from .base import ANIMALS\n@ANIMALS.register({name!r})\nclass Animal:\n    pass\n"
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [one for one in sys.modules if one.split(".")[0] == "animals"]:
        monkeypatch.delitem(sys.modules, module)
    from animals.base import ANIMALS  # type: ignore[import-not-found]

    return ANIMALS


def test_a_file_is_all_that_a_class_needs(animals: Registry[Any]) -> None:
    assert animals.names == ("cat", "dog")
    assert animals.get("dog").__module__ == "animals.dog" and animals.get("dog").name == "dog"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("cow", "animal 'cow' is unknown: use one of cat, dog", id="unknown"),
        pytest.param(None, "animal None is unknown: use one of cat, dog", id="none"),
        pytest.param(["dog"], "animal ['dog'] is unknown: use one of cat, dog", id="list"),
        pytest.param("wolf", "animal 'wolf' was removed: use 'dog'", id="removed"),
    ],
)
def test_other_names_are_refused(animals: Registry[Any], name: Any, message: str) -> None:
    with pytest.raises(QuantizationError) as error:
        animals.get(name)
    assert str(error.value) == message


def test_a_name_has_one_class(animals: Registry[Any]) -> None:
    class Other:
        pass

    known = animals.get("dog")
    assert animals.register("dog")(known) is known
    with pytest.raises(QuantizationError, match="'dog' is registered twice"):
        animals.register("dog")(Other)
