"""The one rule by which a class is matched: for quantized forms, taps, blocks and backbones alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def full_name(cls: type) -> str:
    """Module and qualified name of a class, e.g. ``'torch.nn.modules.linear.Linear'``."""
    return f"{cls.__module__}.{cls.__qualname__}"


class ClassTable(Generic[T]):
    """Values by the full name of a class, e.g. ``'mmdet.models.backbones.swin.SwinBlock'``.

    The matching rule of the package: a class is matched by the first class of its method resolution order that is in
    the table, if it has that class's ``forward``. A subclass that overrides ``forward`` computes something else, so it
    needs a declaration of its own. Names instead of classes leave host libraries unimported.

    Example: with ``timm.models.vision_transformer.Block`` in the table, a subclass that changes only ``__init__`` is
    matched, a subclass with its own ``forward`` is not.
    """

    def __init__(self) -> None:
        self.values: dict[str, T] = {}

    def add(self, names: Iterable[str], value: T) -> None:
        """Set the value of classes, replacing earlier ones."""
        self.values.update(dict.fromkeys(names, value))

    def match(self, cls: type) -> str | None:
        """The name under which a class is matched, None where it is not."""
        for base in cls.__mro__:
            name = full_name(base)
            if name in self.values and getattr(base, "forward", None) is getattr(cls, "forward", None):
                return name
        return None

    def of(self, cls: type) -> T | None:
        """The value for a class, None where no declaration matches."""
        name = self.match(cls)
        return None if name is None else self.values[name]
