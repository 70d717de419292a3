"""Kinds of operators, for a summary of an engine's profile."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = ("products", "norms, softmax, GELU", "layout", "quantize", "rest")
# Operator types in the engines' profiles, including fused and integer forms.
OPERATORS = {
    "products": "MatMul FusedMatMul Gemm QGemm MatMulInteger MatMulIntegerToFloat QLinearMatMul DynamicQuantizeMatMul "
    "Conv FusedConv QLinearConv ConvInteger NhwcFusedConv FullyConnected FullyConnectedQuantizedLegacy Convolution "
    "ConvolutionBackpropData ConvTranspose Deconvolution",
    "norms, softmax, GELU": "LayerNormalization SkipLayerNormalization MVN Softmax QLinearSoftmax Gelu BiasGelu Erf",
    "layout": "Transpose Reshape Split VariadicSplit Concat Concatenation Slice StridedSlice Gather Pad Squeeze "
    "Unsqueeze Expand Reorder Roll ReorderInput ReorderOutput DepthToSpace",
    "quantize": "QuantizeLinear DequantizeLinear FakeQuantize Convert Cast",
}
KIND_OF = {operator: kind for kind, operators in OPERATORS.items() for operator in operators.split()}


def by_kind(seconds: Mapping[str, float]) -> dict[str, float]:
    """Sum a profile (:meth:`psaq_mm.deployment.Session.profile`) over kinds of operators.

    ``rest`` contains element-wise sums and products, also fused ones (OpenVINO's ``Subgraph``).

    Example: ``{'Conv': 2.0, 'MatMul': 1.0, 'Subgraph': 0.5}`` gives 3 for products, 0.5 for the rest and 0 elsewhere.

    Args:
        seconds: Seconds by operator type.

    Returns:
        Seconds of each of :data:`KINDS`.
    """
    sums = dict.fromkeys(KINDS, 0.0)
    for operator, taken in seconds.items():
        sums[KIND_OF.get(operator, "rest")] += taken
    return sums
