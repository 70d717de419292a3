"""Quantized backbones of mmdet, mmseg, mmpretrain and timm (scope ``backbone``)."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from ..errors import UsageError
from .adapters.declaration import BACKBONES, CLASSIFIERS
from .adapters.generic import OTHER_PRODUCTS, has_attention
from .hosts import host_class as host_class
from .hosts import host_name, short_name
from .quantized import quantize_in_place


def supported() -> dict[str, tuple[str, ...]]:
    """The backbones that adapters declare: the libraries of each class name, e.g. ``{'VisionTransformer': (…)}``."""
    found: dict[str, tuple[str, ...]] = {}
    for full_name in BACKBONES.values:
        host, _, name = short_name(full_name).rpartition(".")
        found[name] = (*found.get(name, ()), host)
    return found


# of the package's own adapters
SUPPORTED = supported()
(TIMM_CLASSIFIER,) = map(short_name, CLASSIFIERS.values)


def check_supported(cls: type[nn.Module] | None, kind: str) -> type[nn.Module]:
    """Make sure that there is a backbone of a class.

    Every module can be quantized: one that no adapter declares, by its Linear and Conv2d layers alone.

    Args:
        cls: The class, None where no library has it.
        kind: How messages refer to it.

    Returns:
        The class.

    Raises:
        UsageError: There is no such class, or it is not a module.
    """
    if isinstance(cls, type) and issubclass(cls, nn.Module):
        return cls
    raise UsageError(
        f"no backbone is called {kind}: correct its name, or add the module that registers it to custom_imports"
    )


def quantized_class(host: type[nn.Module]) -> type[nn.Module]:
    """The quantized subclass of a host's backbone.

    Its constructor takes the host's arguments and ``quantization``: the keys of
    :class:`psaq_mm.quantization.QuantPolicy`, whose patterns name modules as in the whole model
    (``backbone.stages.0.*``).

    Raises:
        UsageError: The host's class is not a module.
    """
    checked: Any = check_supported(host, host.__name__)
    return _subclass(checked)


@functools.cache
def _subclass(host: Any) -> type[nn.Module]:
    """See :func:`quantized_class`; one class for each host."""

    class Quantized(host):
        def __init__(self, *args: Any, quantization: dict[str, Any], **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if not has_attention(self):
                self.fp_notes = {"attention_products": OTHER_PRODUCTS}
            quantize_in_place(self, quantization, prefix="backbone")

        def __reduce__(self) -> tuple[Any, ...]:
            # By the host's class, which pickle finds by name; this one is made at run time.
            return _blank, (host,), self.__dict__

    Quantized.__name__ = Quantized.__qualname__ = f"Quant{host.__name__}"
    Quantized.__doc__ = f"``{host_name(host)}``, quantized (scope ``backbone``); see :func:`quantized_class`."
    return Quantized


def _blank(host: type[nn.Module]) -> nn.Module:
    """A quantized backbone without attributes, which pickle then sets."""
    cls = quantized_class(host)
    return cls.__new__(cls)


def backbone_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The part of a model that scope ``backbone`` refers to: its name and the module.

    The backbone of a tracker is that of its detector, by whose names patterns go.

    Raises:
        UsageError: The model has no such part.
    """
    for owner, name in ((model, "backbone"), (model, "model"), (getattr(model, "detector", None), "backbone")):
        part = getattr(owner, name, None)
        if isinstance(part, nn.Module):
            return name, part
    raise UsageError(f"{type(model).__name__} has no backbone: give a detector, a segmentor or a classifier")
