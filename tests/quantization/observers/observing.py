"""Shared by the tests of observers."""

from __future__ import annotations

from torch import Tensor

from psaq_mm.quantization import QuantSpec, make_observer


def observe(spec: QuantSpec, *batches: Tensor) -> tuple[Tensor, Tensor]:
    """The range over the batches."""
    observer = make_observer(spec)
    for batch in batches:
        observer.update(batch)
    return observer.range()
