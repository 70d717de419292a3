"""Classes of the host libraries (mmdet, mmseg, mmpretrain): by name from their registries, and to a name again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from mmengine.registry import MODELS as HOST_MODELS
from torch import nn

from ...errors import PSAQError
from .repairs import repair_hosts

HOSTS = ("mmdet", "mmseg", "mmpretrain")


def host_class(kind: str | type, scope: str | None = None) -> type[nn.Module] | None:
    """The class that a config's ``type`` names, in a scope or the default one; None where there is none.

    Raises:
        PSAQError: The library that should have it cannot be imported.
    """
    if isinstance(kind, type):
        return kind
    with host_imports(), HOST_MODELS.switch_scope_and_registry(scope) as registry:
        found: type[nn.Module] | None = registry.get(kind)
    repair_hosts()
    return found


def host_name(cls: type) -> str:
    """Library and class: ``'mmseg.VisionTransformer'``."""
    return short_name(f"{cls.__module__}.{cls.__name__}")


def kinds_of(module: nn.Module) -> set[str]:
    """Library and class of a module and of its base classes, e.g. ``{'mmdet.MaskRCNN', 'mmdet.TwoStageDetector'}``."""
    return {host_name(base) for base in type(module).__mro__}


def modules_of(value: Any) -> list[Any]:
    """One module or several of a ModuleList, in a list; empty for None."""
    return list(value) if isinstance(value, nn.ModuleList) else [value] if value is not None else []


def short_name(full_name: str) -> str:
    """First and last part of a full name: ``'mmdet.models.backbones.swin.SwinBlock'`` gives ``'mmdet.SwinBlock'``."""
    return f"{full_name.partition('.')[0]}.{full_name.rpartition('.')[2]}"


def named(kind: str | type) -> str:
    """A config's ``type`` as a string that the hosts' registries understand."""
    if isinstance(kind, str):
        return kind
    # registries import a class that no host has registered by its full name
    return host_name(kind) if host_name(kind).partition(".")[0] in HOSTS else f"{kind.__module__}.{kind.__qualname__}"


@contextmanager
def host_imports() -> Iterator[None]:
    """Report an import that fails inside the block in one line; every other error passes.

    Registries import host libraries when a type is looked up, and a library whose dependencies do not fit fails with
    errors of any kind.

    Raises:
        PSAQError: A package cannot be imported; the message names it and the cause.
    """
    try:
        yield
    except PSAQError:
        raise
    except Exception as error:
        message = import_failure(error)
        if message is None:
            raise
        raise PSAQError(message) from error


def import_failure(error: Exception) -> str | None:
    """The message for an error raised while a module was imported; None for an error of another origin."""
    modules = [name for name in imported_modules(error.__traceback__) if not name.startswith("psaq_mm")]
    if not modules:
        return None
    package, origin = (name.partition(".")[0] for name in (modules[0], modules[-1]))
    where = "" if origin == package else f" in {origin}"
    said = " ".join(str(error).split())
    return (
        f"{package} cannot be imported ({type(error).__name__}{where}: {said}): install versions of {package} and "
        f"{'the packages it imports' if origin == package else origin} that work together"
    )


def imported_modules(traceback: TracebackType | None) -> Iterator[str]:
    """The modules whose top-level code is in a traceback, outermost first."""
    while traceback is not None:
        frame = traceback.tb_frame
        # __spec__ is None for a script, which is run and not imported
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__spec__") is not None:
            yield frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next
