"""Changed graphs that compute the same."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra [deploy] is not installed")
onnx = pytest.importorskip("onnx", reason="the extra [deploy] is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from psaq_mm.deployment.graph_passes import SMALLEST, compact, postpone_rearrangement  # noqa: E402

RNG = np.random.default_rng(0)
CONSTANTS = {
    "mask": np.where(RNG.random((40, 40)) < 0.5, 0, -100).astype(np.float32),
    "ends": np.resize(np.array([-128, 127], np.float32), (40, 40)),
    "above": np.full((40, 40), 128, np.float32),
    "halves": np.full((40, 40), 0.5, np.float32),
    "infinite": np.full((40, 40), -np.inf, np.float32),
    "nan": np.full((40, 40), np.nan, np.float32),
    "small": np.zeros(SMALLEST - 1, np.float32),
    "integers": np.zeros((40, 40), np.int64),
}


def adding(name: str) -> onnx.ModelProto:
    """A model that adds a constant to its input and tells where it was made."""
    constant = CONSTANTS[name]
    kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
    node = helper.make_node("Add", ["x", "constant"], ["y"])
    node.metadata_props.append(onnx.StringStringEntryProto(key="stack_trace", value="/home/someone/model.py"))
    x, y = (helper.make_tensor_value_info(one, kind, constant.shape) for one in "xy")
    graph = helper.make_graph([node], "graph", [x], [y], [numpy_helper.from_array(constant, "constant")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(proto, {"psaq_mm.note": "kept"})
    return proto


@pytest.mark.parametrize("name", CONSTANTS)
def test_whole_numbers_that_a_byte_holds_take_one(name):
    import onnxruntime

    constant, proto = CONSTANTS[name], adding(name)
    compact(proto)
    onnx.checker.check_model(proto, full_check=True)
    (stored,) = proto.graph.initializer
    assert (stored.data_type == TensorProto.INT8) == (name in ("mask", "ends"))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.ones_like(constant)
    assert np.array_equal(session.run(None, {"x": x})[0], x + constant, equal_nan=name == "nan")


def test_only_the_models_own_notes_stay():
    proto = adding("mask")
    compact(proto)
    assert b"/home/someone" not in proto.SerializeToString()
    assert [(prop.key, prop.value) for prop in proto.metadata_props] == [("psaq_mm.note", "kept")]


def upsampling(between: list[str], quantized: bool = True) -> onnx.ModelProto:
    """DepthToSpace, then operators, then a quantization."""
    names = ["DepthToSpace", *between, *(["QuantizeLinear", "DequantizeLinear"] if quantized else [])]
    nodes, last = [], "x"
    for index, kind in enumerate(names):
        more = ["scale", "zero"] if "Linear" in kind else []
        attributes = {"blocksize": 2, "mode": "CRD"} if kind == "DepthToSpace" else {}
        nodes.append(helper.make_node(kind, [last, *more], [f"t{index}"], **attributes))
        last = f"t{index}"
    nodes.append(helper.make_node("Neg", [last], ["y"]))
    constants = [numpy_helper.from_array(np.array(0.25, np.float32), "scale")]
    constants.append(numpy_helper.from_array(np.array(7, np.uint8), "zero"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 3, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2, 6, 10])
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("between", "quantized", "place"),
    [
        pytest.param(["Relu"], True, 3, id="relu"),
        pytest.param([], True, 2, id="quantization-alone"),
        pytest.param(["Softmax"], True, 0, id="softmax-is-not-elementwise"),
        pytest.param(["Relu"], False, 0, id="not-quantized"),
    ],
)
def test_rearrangement_behind_the_quantization(between, quantized, place):
    import onnxruntime

    x = RNG.normal(size=(2, 8, 3, 5)).astype(np.float32)
    found = []
    for change in (False, True):
        proto = upsampling(between, quantized)
        if change:
            postpone_rearrangement(proto)
            assert [node.op_type for node in proto.graph.node].index("DepthToSpace") == place
            onnx.checker.check_model(proto, full_check=True)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"x": x})[0])
    # The same values in the same places: equal bit by bit.
    np.testing.assert_array_equal(*found)
