"""Attention in decomposed form, with quantizers on the operands of its products: the base class of all forms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...quantization import Quantizer, QuantMatMul, QuantPolicy

OF_PROJECTION = "quantized as {}'s output"


class DecomposedAttention(nn.Module):
    """``softmax(scale q k^T + bias) v`` by two products of their own.

    Scheme ``deploy`` quantizes what integer engines multiply: the inputs and weights of the projections and both
    operands of the two products. The other scheme follows PSAQ-ViT V1: it quantizes the outputs of the projection to
    q, k and v, of the first product, of the second (as the output projection's input) and of the output projection;
    the softmax output stays FP. In both, q is multiplied by the scale: in ``deploy`` before its quantizer, else behind
    the projection's. A per-tensor scale absorbs the constant, so the integers are the same.

    The keys of the state dict are the float module's, with the quantizers' beside them.
    """

    qk: QuantMatMul
    av: QuantMatMul
    attn_drop: nn.Module
    num_heads: int
    scale: float
    softmax_rows: bool = False
    fp_notes: dict[str, str]

    def adopt(self, module: Any, scale: float, drop: nn.Module) -> None:
        """Set what all forms have: number of heads, scale, dropout of the softmax output."""
        self.num_heads, self.scale, self.attn_drop = module.num_heads, scale, drop

    def add_products(
        self,
        name: str,
        policy: QuantPolicy,
        projection: str,
        output: Quantizer | None,
        normalised: bool = False,
    ) -> None:
        """Make the two products, and note what stays FP.

        Args:
            name: The attention's name in the model.
            policy: What to quantize and how.
            projection: The attribute of the layer that computes q, k and v, for notes.
            output: The quantizer of that layer's output, if it has one.
            normalised: Whether q and k are normalised behind that layer. Its output is then no operand of the first
                product, and q and k get quantizers of their own in every scheme.
        """
        deploy = policy.scheme == "deploy"
        for product in ("qk", "av"):
            specs = policy.specs(f"{name}.{product}")
            operand = specs.activation if specs and (deploy or (normalised and product == "qk")) else None
            result = specs.activation if specs and not deploy and product == "qk" else None
            left = operand
            if product == "av" and specs and operand:
                left, self.softmax_rows = specs.softmax, specs.softmax_rows
            setattr(self, product, QuantMatMul(left, operand, result, name=f"{name}.{product}"))
        self.fp_notes = {"softmax": "softmax arithmetic stays FP"}
        if self.softmax_rows:
            self.fp_notes["softmax_row_maximum"] = "division by it and multiplication behind the product stay FP"
        if deploy:
            return
        notes = {"left": f"scheme {policy.scheme} keeps the softmax output FP"}
        if output is not None:
            notes["right"] = OF_PROJECTION.format(projection)
            if not normalised:
                note(self.qk, dict.fromkeys(("left", "right"), OF_PROJECTION.format(projection)))
        note(self.av, notes)

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
        scores = self.scores(q, k)
        for bias in biases:
            if bias is not None:
                scores = (scores.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        weights, peak = self.attn_drop(scores.softmax(-1)), None
        if self.softmax_rows:
            # The quantizer then sees every row from 0 to 1; the product is multiplied by the divisor.
            peak = weights.amax(-1, keepdim=True)
            weights = weights / peak
        merged = self.av(weights, v)
        return (merged if peak is None else merged * peak).transpose(1, 2).flatten(2)


def note(module: Any, reasons: dict[str, str]) -> None:
    """Set the coverage report's reasons for tensors of a module that stay FP."""
    module.fp_notes = reasons


def output_quantizer(layer: nn.Module) -> Quantizer | None:
    """The quantizer of a converted layer's output, None for a layer that has none or stayed FP."""
    return getattr(layer, "output_quantizer", None)
