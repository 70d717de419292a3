"""The two matrix products of an attention, with quantizers on their operands: what all quantized forms share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...quantization import Quantizer, QuantMatMul, QuantPolicy

OF_PROJECTION = "quantized as {}'s output"


class AttentionProducts(nn.Module):
    """``softmax(scale q k^T + bias) v`` with the products ``qk`` and ``av``.

    Scheme ``deploy`` quantizes what integer engines multiply: the inputs and weights of the projections and both
    operands of the two products. The other scheme follows PSAQ-ViT V1: it quantizes the outputs of the projection to
    q, k and v, of the first product, of the second (as the output projection's input) and of the output projection;
    the softmax output stays FP.

    The keys of the state dict are the float module's, with the quantizers' beside them.
    """

    softmax_rows: bool = False
    fp_notes: dict[str, str]

    def add_products(
        self,
        name: str,
        policy: QuantPolicy,
        projection: str,
        output: Quantizer | None,
        normalised: bool = False,
        softmax: bool = True,
        keys: tuple[str, str] = ("qk", "av"),
        pooled: bool = False,
        migrates: bool = True,
    ) -> None:
        """Make the two products, and note what stays FP.

        Args:
            name: The attention's name in the model.
            policy: What to quantize and how.
            projection: The attribute of the layer that computes q, k and v, for notes.
            output: The quantizer of that layer's output, if it has one.
            normalised: Whether q and k are changed behind that layer, by a norm for example. Its output is then no
                operand of the first product, and q and k get quantizers of their own in every scheme.
            softmax: Whether the left operand of the second product is a softmax output, with values from 0 to 1.
            keys: The attributes of the two products.
            pooled: Whether v is changed behind the projection as well, and so gets a quantizer in every scheme.
            migrates: Whether the first product sums over the channels of a head, so that the ranges of these channels
                can be moved from keys to queries, and the channels be rotated.
        """
        deploy = policy.scheme == "deploy"
        first, second = keys
        for key in keys:
            specs = policy.specs(f"{name}.{key}")
            operand = specs.activation if specs and (deploy or (normalised and key == first)) else None
            result = specs.activation if specs and not deploy and key == first else None
            left = operand
            if key == second and specs and operand and softmax:
                left, self.softmax_rows = specs.softmax, specs.softmax_rows
            if key == second and specs and pooled:
                operand = specs.activation
            migration, centered = 0.0, False
            if specs and deploy and migrates:
                if key == first:
                    # Only keys in front of a softmax: it ignores what the center takes away.
                    migration, centered = specs.qk_migration, softmax and specs.rotation != "none"
                # Queries, keys and values. Shares of a softmax have no channels to rotate.
                left = specs.rotated() if key == first else left
                operand = specs.rotated(-2 if key == first else -1)
            setattr(self, key, QuantMatMul(left, operand, result, f"{name}.{key}", migration, centered))
        self.fp_notes = {"softmax": "softmax arithmetic stays FP"}
        if self.softmax_rows:
            self.fp_notes["softmax_row_maximum"] = "division by it and multiplication behind the product stay FP"
        if deploy:
            return
        notes = {"left": f"scheme {policy.scheme} keeps the softmax output FP"}
        if not softmax:
            notes["left"] = f"scheme {policy.scheme} quantizes the outputs of layers and of the first product"
            notes["right"] = notes["left"]
        if output is not None:
            if not pooled:
                notes["right"] = OF_PROJECTION.format(projection)
            if not normalised:
                note(getattr(self, first), dict.fromkeys(("left", "right"), OF_PROJECTION.format(projection)))
        note(getattr(self, second), notes)

    def weighted(self, product: Any, weights: Tensor, values: Tensor) -> Tensor:
        """The second product, ``(..., n, m) x (..., m, d) -> (..., n, d)``.

        With ``softmax_rows`` each row of the weights is divided by its maximum, so that its quantizer sees values from
        0 to 1, and the product is multiplied by it.
        """
        if not self.softmax_rows:
            return product(weights, values)
        peak = weights.amax(-1, keepdim=True)
        return product(weights / peak, values) * peak


def note(module: Any, reasons: dict[str, str]) -> None:
    """Set the coverage report's reasons for tensors of a module that stay FP."""
    module.fp_notes = reasons


def output_quantizer(layer: nn.Module) -> Quantizer | None:
    """The quantizer of a converted layer's output, None for a layer that has none or stayed FP."""
    return getattr(layer, "output_quantizer", None)
