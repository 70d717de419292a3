"""The ``type`` keys of hosts' configs as names, and errors of building from them in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from ...errors import PSAQError, UsageError
from .classes import HOSTS, host_class, host_imports, import_failure, named

UNKNOWN = re.compile(r"(?P<name>[\w.]+) is not in the (?P<scope>\w+)::(?P<kind>[\w ]+) registry")


def short_type(part: Any) -> str:
    """The name of the class of a part of a config, or of an object in its place.

    Example: ``{'type': 'mmdet.NumClassCheckHook'}``, ``{'type': NumClassCheckHook}`` and ``NumClassCheckHook()`` all
    give ``'NumClassCheckHook'``.
    """
    kind = part.get("type", "") if isinstance(part, dict) else type(part)
    return named(kind).rpartition(".")[2]


def types_as_names(part: Any) -> Any:
    """A copy of a part of a config in which classes and functions are their full names, which any registry finds."""
    if isinstance(part, dict):
        return {key: types_as_names(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(types_as_names(one) for one in part)
    if isinstance(part, type) or callable(part) and hasattr(part, "__qualname__"):
        return f"{part.__module__}.{part.__qualname__}"
    return part


@contextmanager
def registered(cfg: Config) -> Iterator[None]:
    """Turn a registry's error about an unknown ``type`` into one line.

    Args:
        cfg: The config that the block builds from.

    Raises:
        UsageError: A type is unknown; the message names the key to set.
    """
    try:
        yield
    except (KeyError, ImportError, AttributeError) as error:
        found = UNKNOWN.search(str(error))
        if found is None:
            raise
        name, scope = found["name"], cfg.get("default_scope")
        libraries = [library for library in HOSTS if library != scope and knows(library, name)]
        if libraries and scope is None:
            advice = f"the config has no default_scope: set default_scope = {libraries[0]!r} in it"
        elif libraries:
            advice = f"default_scope of the config is {scope!r}: write {libraries[0]}.{name}, or set default_scope"
        else:
            advice = "correct its name, or add the module that registers it to custom_imports of the config"
        raise UsageError(f"no {found['kind']} is called {name} in {found['scope']}: {advice}") from None


@contextmanager
def buildable(cfg: Config, part: str) -> Iterator[None]:
    """Turn an error that a host raises while it builds a part of a config into one line.

    Hosts check arguments by assertions, and report a missing package by errors of many kinds.

    Args:
        cfg: The config.
        part: What is built, for the message.

    Raises:
        UsageError: A type is unknown, or does not take its arguments.
        PSAQError: A package is missing or cannot be imported.
        FileNotFoundError: A file is missing.
    """
    try:
        with registered(cfg):
            described = cfg.get("model") or {}
            if described.get("type"):
                host_class(described["type"], described.get("_scope_") or cfg.get("default_scope"))
            yield
    except (PSAQError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        failed = None if isinstance(error, ImportError) else import_failure(error)
        if failed is not None:
            raise PSAQError(failed) from error
        if isinstance(error, ImportError) or "install" in said:
            raise PSAQError(f"the config's {part} needs a package that is not there: {said}") from error
        raise UsageError(f"the config's {part} cannot be built ({said}): correct its keys") from error


def knows(library: str, name: str) -> bool:
    """Whether a library has registered something under a name."""
    if find_spec(library) is None:
        return False
    with host_imports():
        registries = vars(import_module(f"{library}.registry")).values()
    for registry in registries:
        with suppress(Exception):  # some import optional parts to find the name
            if isinstance(registry, Registry) and name in registry.module_dict or registry.get(name) is not None:
                return True
    return False
