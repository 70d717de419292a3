"""What the engines' operators do, for a profile that can be read."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = ("products", "norms, softmax, GELU", "layout", "quantize", "rest")
# By the types that the engines' own profiles name; fused and integer forms stand beside the plain ones.
OPERATORS = {
    "products": "MatMul FusedMatMul Gemm QGemm MatMulInteger MatMulIntegerToFloat QLinearMatMul DynamicQuantizeMatMul "
    "Conv FusedConv QLinearConv ConvInteger NhwcFusedConv FullyConnected Convolution",
    "norms, softmax, GELU": "LayerNormalization SkipLayerNormalization MVN Softmax QLinearSoftmax Gelu BiasGelu Erf",
    "layout": "Transpose Reshape Split VariadicSplit Concat Concatenation Slice StridedSlice Gather Pad Squeeze "
    "Unsqueeze Expand Reorder Roll ReorderInput ReorderOutput",
    "quantize": "QuantizeLinear DequantizeLinear FakeQuantize Convert Cast",
}
KIND_OF = {operator: kind for kind, operators in OPERATORS.items() for operator in operators.split()}


def by_kind(seconds: Mapping[str, float]) -> dict[str, float]:
    """Sum a profile (:meth:`psaq_mm.deployment.Session.profile`) over kinds of operators.

    ``rest`` is sums and factors, alone or fused with their neighbours (OpenVINO's ``Subgraph``).

    Example: ``{'Conv': 2.0, 'MatMul': 1.0, 'Subgraph': 0.5}`` gives 3 for products, 0.5 for the rest and 0 elsewhere.

    Args:
        seconds: By the engine's type of operator.

    Returns:
        Seconds of every one of :data:`KINDS`.
    """
    sums = dict.fromkeys(KINDS, 0.0)
    for operator, taken in seconds.items():
        sums[KIND_OF.get(operator, "rest")] += taken
    return sums
