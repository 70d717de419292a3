"""Attention whose forward the package writes itself, step by step: the base class of these forms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...quantization import QuantMatMul
from .products import AttentionProducts, note, output_quantizer

__all__ = ["DecomposedAttention", "note", "output_quantizer"]


class DecomposedAttention(AttentionProducts):
    """``softmax(scale q k^T + bias) v`` by two products of their own, see :class:`.products.AttentionProducts`.

    In every scheme q is multiplied by the scale: in ``deploy`` before its quantizer, else behind the projection's. A
    per-tensor scale absorbs the constant, so the integers are the same.
    """

    qk: QuantMatMul
    av: QuantMatMul
    attn_drop: nn.Module
    num_heads: int
    scale: float

    def adopt(self, module: Any, scale: float, drop: nn.Module) -> None:
        """Set what all forms have: number of heads, scale, dropout of the softmax output."""
        self.num_heads, self.scale, self.attn_drop = module.num_heads, scale, drop

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """``(b, n, 3 heads d)`` as q, k and v, ``(b, heads, n, d)`` each."""
        return qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """``scale q k^T``, ``(b, heads, n, m)``, of q ``(b, heads, n, d)`` and k ``(b, heads, m, d)``."""
        return self.qk(q * self.scale, k.transpose(-2, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *biases: Tensor | None) -> Tensor:
        """Attention of all heads.

        Args:
            q: ``(b, heads, n, d)``.
            k: ``(b, heads, m, d)``.
            v: As ``k``.
            *biases: Added to the scores in turn, ``(groups, heads or 1, n, m)`` each; the groups (windows) repeat
                from image to image.

        Returns:
            ``(b, n, heads * d)``.
        """
        return self.merge(self.attn_drop(self.weights(q, k, *biases)), v)

    def weights(self, q: Tensor, k: Tensor, *biases: Tensor | None) -> Tensor:
        """The softmax output, ``(b, heads, n, m)``; arguments as of :meth:`attend`."""
        scores = self.scores(q, k)
        for bias in biases:
            if bias is not None:
                scores = (scores.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        return scores.softmax(-1)

    def merge(self, weights: Tensor, v: Tensor) -> Tensor:
        """The weighted sums of v with the heads side by side, ``(b, n, heads * d)``."""
        return self.weighted(self.av, weights, v).transpose(1, 2).flatten(2)
