"""Changes to ONNX graphs that keep their outputs: smaller files, and rearrangements of integers instead of floats."""

from __future__ import annotations

from typing import Any

# For fewer elements the additional Cast node outweighs the saving.
SMALLEST = 1024
# Operators whose outputs are their inputs element by element, with scalars as further inputs.
ELEMENTWISE = ("Relu", "Clip", "QuantizeLinear", "DequantizeLinear")


def compact(proto: Any) -> None:
    """Make a model's file smaller in place, with equal outputs.

    - Metadata of nodes and values are removed: torch's exporter stores source lines and folders of the machine there.
    - float32 constants with integer values from -128 to 127, such as the masks of shifted windows (0 and -100), are
      stored as INT8; engines cast them to float once, when they load the file.

    Example: the mask of Swin's first stage at 640x640, 529 windows of 49 x 49, takes 1.2 MiB instead of 4.8.

    Args:
        proto: An ``onnx.ModelProto``; the metadata of the model itself are kept.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    for noted in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del noted.metadata_props[:]
    casts = []
    for constant in graph.initializer:
        if constant.data_type != TensorProto.FLOAT or np.prod(constant.dims) < SMALLEST:
            continue
        values = numpy_helper.to_array(constant)
        if not np.array_equal(values.round().clip(-128, 127), values):
            continue
        name, stored = constant.name, f"{constant.name}.int8"
        constant.CopyFrom(numpy_helper.from_array(values.astype(np.int8), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def postpone_rearrangement(proto: Any) -> None:
    """Move each DepthToSpace behind the activation and the quantization of its output, in place.

    A transposed convolution is exported as a convolution and a DepthToSpace. Engines fuse what follows a convolution
    directly, and then rearrange integers instead of floats::

        Conv, DepthToSpace, Relu, QuantizeLinear, DequantizeLinear
        Conv, Relu, QuantizeLinear, DequantizeLinear, DepthToSpace

    Args:
        proto: An ``onnx.ModelProto``.
    """
    graph = proto.graph
    nodes = list(graph.node)
    readers: dict[str, list[int]] = {one.name: [-1] for one in graph.output}
    for index, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    order = list(range(len(nodes)))
    changed: set[str] = set()
    for start in [index for index, node in enumerate(nodes) if node.op_type == "DepthToSpace"]:
        chain = [start]
        while nodes[chain[-1]].op_type != "DequantizeLinear":
            following = readers.get(nodes[chain[-1]].output[0], [])
            if len(following) != 1 or following[0] < 0 or not is_elementwise(nodes[following[0]]):
                break
            chain.append(following[0])
        shuffle, first, last = nodes[start], nodes[chain[min(1, len(chain) - 1)]], nodes[chain[-1]]
        if last.op_type != "DequantizeLinear" or -1 in readers[last.output[0]]:
            continue
        changed.update(name for index in chain for name in nodes[index].output)
        first.input[0], result = shuffle.input[0], last.output[0]
        last.output[0] = f"{result}.before"
        shuffle.input[0], shuffle.output[0] = last.output[0], result
        order.remove(start)
        order.insert(order.index(chain[-1]) + 1, start)
    # Their shapes have changed.
    kept = [info for info in graph.value_info if info.name not in changed]
    sorted_nodes = [nodes[index] for index in order]
    del graph.value_info[:], graph.node[:]
    graph.value_info.extend(kept)
    graph.node.extend(sorted_nodes)


def is_elementwise(node: Any) -> bool:
    """Whether a node maps its first input element by element; scales of single channels do not."""
    return node.op_type in ELEMENTWISE and not any(attribute.name == "axis" for attribute in node.attribute)
