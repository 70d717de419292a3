"""Registries: classes by the names that specs and configs give them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from ..errors import QuantizationError

T = TypeVar("T")
_C = TypeVar("_C", bound=type[Any])


class Registry(Generic[T]):
    """Subclasses of ``T`` by name.

    Example::

        @OBSERVERS.register("minmax")
        class MinMaxObserver(Observer): ...

        OBSERVERS.get("minmax")  # MinMaxObserver

    Args:
        kind: What the classes are, for error messages.
        removed: Names of earlier versions, each with what to use instead.
    """

    def __init__(self, kind: str, removed: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.removed = dict(removed or {})
        self._classes: dict[str, type[T]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names in alphabetical order."""
        return tuple(sorted(self._classes))

    def register(self, name: str) -> Callable[[_C], _C]:
        """A class decorator that registers the class under ``name``.

        Raises:
            QuantizationError: Another class has the name.
        """

        def decorate(cls: _C) -> _C:
            known = self._classes.setdefault(name, cls)
            # A module that is reloaded registers its class again.
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise QuantizationError(f"{self.kind} {name!r} is registered twice: choose another name")
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type[T]:
        """The class registered under ``name``.

        Raises:
            QuantizationError: The name is not registered; the message lists the names that are.
        """
        # Names come from configs, where they may be of any type.
        if isinstance(name, str) and name in self._classes:
            return self._classes[name]
        if isinstance(name, str) and name in self.removed:
            raise QuantizationError(f"{self.kind} {name!r} was removed: {self.removed[name]}")
        raise QuantizationError(f"{self.kind} {name!r} is unknown: use one of {', '.join(self.names)}")


def import_modules(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package, so that the classes in it are registered.

    Args:
        package: ``__name__`` of the package.
        path: ``__path__`` of the package.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


# Here and not in observers/: specs check the observer's name, and observers depend on specs. Any for the same reason.
OBSERVERS: Registry[Any] = Registry("observer", removed={"ema": "use 'minmax', 'percentile' or 'mse'"})
