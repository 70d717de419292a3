"""The ONNX file in both engines, against the simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from psaq_mm.export import ENGINES, ExportError, Maps, open_session, quantized_onnx, save_onnx
from psaq_mm.quantization import sqnr
from tests.export.test_modules import quantized_swin

pytest.importorskip("onnxruntime", reason="the extra [deploy] is not installed")
pytest.importorskip("openvino", reason="the extra [deploy] is not installed")
onnx = pytest.importorskip("onnx", reason="the extra [deploy] is not installed")
SIZE = 64, 96


@pytest.fixture(scope="module")
def model():
    return quantized_swin()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "swin.onnx"
    save_onnx(quantized_onnx(Maps(model), SIZE, metadata={"psaq_mm.note": "a test"}), path)
    return path


def test_integers_are_stored_as_integers_and_every_product_has_its_pairs(model, file):
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    assert {prop.key: prop.value for prop in proto.metadata_props} == {"psaq_mm.note": "a test"}
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim > 1]
    quantizers = [name for name in model.state_dict() if name.endswith("weight_quantizer.scale")]
    assert len(weights) == len(quantizers)
    made_by = {output: node for node in proto.graph.node for output in node.output}
    products = [node for node in proto.graph.node if node.op_type in ("MatMul", "Conv", "Gemm")]
    assert len(products) == len(weights) + 2 * 5
    for node in products:
        assert all(made_by[name].op_type == "DequantizeLinear" for name in node.input[:2])


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_compute_what_was_simulated(model, file, engine):
    session = open_session(engine, file, threads=1)
    assert session.shape == (1, 3, *SIZE)
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        expected = model(x)
    found = [torch.from_numpy(one) for one in session.run(x.numpy())]
    assert [one.shape for one in found] == [one.shape for one in expected]
    for one, other in zip(expected, found, strict=True):
        # random weights: see tests/export/test_modules.py
        assert sqnr(one, other) > 25


@pytest.mark.parametrize(
    ("engine", "message"),
    [("tensorrt", "engine 'tensorrt' is unknown"), ("onnxruntime", "make it with tools/export.py")],
    ids=["engine", "file"],
)
def test_what_cannot_be_opened_is_said(engine, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        open_session(engine, tmp_path / "none.onnx")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_file_is_said(engine, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ExportError, match="cannot read .*broken.onnx.*export it anew"):
        open_session(engine, path)


def test_an_old_opset_is_refused(model):
    with pytest.raises(ExportError, match="opset 13 is too old"):
        quantized_onnx(Maps(model), SIZE, opset=13)
