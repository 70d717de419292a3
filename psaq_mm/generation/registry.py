"""Registries of interchangeable classes: a name in a config selects a class in a file of its own.

To add an implementation, put one module into the registry's package and decorate its class::

    @ENTROPIES.register
    class Histogram(EntropyVariant):
        name = "histogram"
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Generic, TypeVar

from ..errors import GenerationError

Base = TypeVar("Base")
Registered = TypeVar("Registered", bound=type[Any])


class Registry(Generic[Base]):
    """Classes by their attribute ``name``; the modules of a package are imported at the first look-up.

    Args:
        kind: What the classes are, for error messages, for example ``"variant"``.
        package: The package whose modules register classes, for example ``"psaq_mm.generation.starts"``.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._classes: dict[str, type[Base]] = {}

    def register(self, cls: Registered) -> Registered:
        """Class decorator that adds a class under its attribute ``name``.

        Raises:
            GenerationError: Another class has the name.
        """
        held: type[Any] = self._classes.setdefault(cls.name, cls)
        if held is not cls:
            raise GenerationError(f"{self.kind} {cls.name!r} is registered twice: choose another name")
        return cls

    @property
    def names(self) -> list[str]:
        """The names of all registered classes, sorted."""
        # Not at construction: the modules import the registry.
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._classes)

    def get(self, name: str) -> type[Base]:
        """The class of a name.

        Raises:
            GenerationError: No class has the name; the message lists those that exist.
        """
        # A search in the list, because a config may hold a value that cannot be hashed.
        if name not in self.names:
            raise GenerationError(f"{self.kind} {name!r} is unknown: choose one of {', '.join(self.names)}")
        return self._classes[name]
