"""INT4 storage of weights with at most 4 bits: half the size, but current engines multiply such weights in float."""

from __future__ import annotations

from typing import Any

# The first opset whose DequantizeLinear supports 4-bit integers.
FIRST_OPSET = 21
LOWEST, HIGHEST = -8, 7


def pack_int4(proto: Any) -> int:
    """Store each weight whose integers fit into 4 bits as INT4, in place.

    Args:
        proto: An ``onnx.ModelProto`` of opset 21 or newer; its weights are INT8 initializers of DequantizeLinear nodes.

    Returns:
        The number of weights that fit.
    """
    import ml_dtypes
    from onnx import TensorProto, numpy_helper

    stored = {one.name: one for one in proto.graph.initializer}
    packed, zero_points = set(), set()
    for node in proto.graph.node:
        weight = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is None:
            continue
        if weight.data_type == TensorProto.INT8:
            integers = numpy_helper.to_array(weight)
            if integers.min() >= LOWEST and integers.max() <= HIGHEST:
                weight.CopyFrom(numpy_helper.from_array(integers.astype(ml_dtypes.int4), weight.name))
                packed.add(weight.name)
        if weight.name in packed:
            # Remove the zero point, whose type would have to be INT4 too: it is 0, which is the default.
            zero_points.update(node.input[2:])
            del node.input[2:]
    used = {name for node in proto.graph.node for name in node.input}
    for kind, unused in ((proto.graph.initializer, zero_points - used), (proto.graph.value_info, packed)):
        for one in [one for one in kind if one.name in unused]:
            kind.remove(one)
    return len(packed)
