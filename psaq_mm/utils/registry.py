"""Registries of classes that configs select by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ..errors import PSAQError

T = TypeVar("T")
_C = TypeVar("_C", bound=type[Any])


class Registry(Generic[T]):
    """Subclasses of ``T`` by name, each in a file of its own.

    Example: to add an observer, put one module into the folder ``observers`` and decorate its class::

        @OBSERVERS.register("median")
        class MedianObserver(Observer): ...

    Args:
        kind: The kind of the classes for error messages, such as ``"observer"``.
        error: The class of the errors that are raised.
        package: The package whose modules register classes; they are imported at the first look-up.
        removed: Names of earlier versions, each with what to use instead.
    """

    def __init__(
        self, kind: str, error: type[PSAQError], package: str, removed: Mapping[str, str] | None = None
    ) -> None:
        self.kind, self.error, self.package = kind, error, package
        self.removed = dict(removed or {})
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[_C], _C]:
        """A class decorator that registers the class under ``name``, which becomes its attribute ``name``.

        Raises:
            PSAQError: Another class has the name.
        """

        def decorate(cls: _C) -> _C:
            known = self._classes.setdefault(name, cls)
            # A reloaded module registers its class again.
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise self.error(f"{self.kind} {name!r} is registered twice: choose another name")
            cls.name = name
            self._classes[name] = cls
            return cls

        return decorate

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names in alphabetical order."""
        # Import here and not in __init__, because these modules import the registry.
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return tuple(sorted(self._classes))

    def get(self, name: str) -> type[T]:
        """The class registered under ``name``.

        Raises:
            PSAQError: The name is not registered; the message lists the names that are.
        """
        # Search the tuple, because a config may contain a value that cannot be hashed.
        if name in self.names:
            return self._classes[name]
        if isinstance(name, str) and name in self.removed:
            raise self.error(f"{self.kind} {name!r} was removed: {self.removed[name]}")
        raise self.error(f"{self.kind} {name!r} is unknown: use one of {', '.join(self.names)}")
