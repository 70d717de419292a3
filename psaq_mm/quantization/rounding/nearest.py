"""Rounding method ``'nearest'``."""

from __future__ import annotations

from torch import nn

from .base import Rounding, register_rounding


@register_rounding("nearest")
class NearestRounding(Rounding):
    """Rounds each weight to the nearest integer of its grid.

    The weight quantizers do so at every forward pass, so ``apply`` has nothing to change.
    """

    def apply(self, model: nn.Module) -> None:
        """Does not change the float weights."""
