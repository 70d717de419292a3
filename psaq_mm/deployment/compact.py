"""Exported files without what no engine needs: the exporter's notes, and floats that a byte holds."""

from __future__ import annotations

from typing import Any

# Below this a node more costs what the constant saves.
SMALLEST = 1024


def compact(proto: Any) -> None:
    """Make a model's file smaller without changing what it computes, in place.

    - torch's exporter notes on every node and value where it comes from, down to lines of source and folders of the
      machine that exported it. That goes.
    - Constants of float32 that are whole numbers from -128 to 127, as the masks of shifted windows (0 and -100), are
      stored as INT8 and cast, once, when an engine loads the file.

    Example: the mask of Swin's first stage at 640x640, 529 windows of 49 x 49, takes 1.2 MiB instead of 4.8.

    Args:
        proto: An ``onnx.ModelProto``; metadata of the model itself stay.
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
