"""The quantized product of two activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .layers import make_quantizer
from .quantizer import Quantizer
from .spec import QuantSpec


class QuantMatMul(nn.Module):
    """``a @ b`` with quantized operands, for the two matrix products of attention.

    Args:
        left: Spec of ``a``, None keeps it FP.
        right: Spec of ``b``, None keeps it FP.
        output: Spec of the product, None keeps it FP.
        name: The product's name in the model, for messages.
        migration: How far :func:`.equalization.equalizing` moves the ranges of the channels of ``b`` to those of ``a``,
            0 to 1; 0 leaves them as they are.
        centered: Whether the mean of each channel of ``b`` is subtracted from it, for a product that a softmax follows.
            All products of one row of ``a`` decrease by the same number, which the softmax of the row ignores.

    Attributes:
        ratio: The factor r of each channel, ``(k,)`` or ``(heads, k)``, ``(1,)`` before it is measured, None without
            migration. The operands are quantized as ``a r`` and ``b / r``, which have the product of ``a`` and ``b``.
        center: The mean of each channel, of the same shapes, None without centering.
    """

    left_quantizer: Quantizer | None
    right_quantizer: Quantizer | None
    output_quantizer: Quantizer | None
    ratio: Tensor | None
    center: Tensor | None

    def __init__(
        self,
        left: QuantSpec | None,
        right: QuantSpec | None,
        output: QuantSpec | None = None,
        name: str = "",
        migration: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__()
        self.migration, self.centered = migration, centered
        self.register_buffer("ratio", torch.ones(1) if migration else None)
        self.register_buffer("center", torch.zeros(1) if centered else None)
        self.left_quantizer = make_quantizer(left, name, "left_quantizer")
        self.right_quantizer = make_quantizer(right, name, "right_quantizer")
        self.output_quantizer = make_quantizer(output, name, "output_quantizer")

    @property
    def equalizes(self) -> bool:
        """Whether :func:`.equalization.equalizing` measures a ratio or a center."""
        return self.centered or self.migration > 0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``(..., n, k) @ (..., k, m) -> (..., n, m)``."""
        a, b = equalized(a, b, self.ratio, self.center)
        if self.left_quantizer is not None:
            a = self.left_quantizer(a)
        if self.right_quantizer is not None:
            b = self.right_quantizer(b)
        y = a @ b
        if self.output_quantizer is not None:
            y = self.output_quantizer(y)
        return y

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes over the shapes of the checkpoint's buffers; a float checkpoint has none and leaves them unchanged."""
        wanted = [key for key in ("ratio", "center") if getattr(self, key) is not None]
        if wanted and not any(prefix + key in state_dict for key in wanted):
            return
        for key in wanted:
            if prefix + key in state_dict:
                setattr(self, key, getattr(self, key).new_empty(state_dict[prefix + key].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def equalized(a: Tensor, b: Tensor, ratio: Tensor | None, center: Tensor | None) -> tuple[Tensor, Tensor]:
    """``a r`` and ``(b - c) / r``: operands with other ranges of their channels.

    Args:
        a: ``(..., n, k)``.
        b: ``(..., k, m)``.
        ratio: ``(k,)``, or ``(heads, k)`` for operands whose third dimension from the end is the head; None for 1.
        center: Likewise; None for 0.
    """
    if center is not None:
        b = b - center.unsqueeze(-1)
    if ratio is not None:
        a, b = a * ratio.unsqueeze(-2), b / ratio.unsqueeze(-1)
    return a, b
