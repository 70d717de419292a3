"""Engines: inputs, profiles, and what is missing."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from psaq_mm.deployment import ENGINES, check_engine, onnx_graph, open_session, save_onnx
from psaq_mm.deployment import engines as module
from psaq_mm.deployment.engines import OpenVINOSession
from psaq_mm.errors import ExportError


class Product(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor]:
        return (left @ right,)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_of_two_inputs_is_run_and_profiled(tmp_path, engine):
    pytest.importorskip("onnxscript", reason="the extra [deploy] is not installed")
    pytest.importorskip(engine, reason="the extra [deploy] is not installed")
    left, right = torch.randn(1, 2, 40, 30), torch.randn(1, 2, 30, 20)
    save_onnx(onnx_graph(Product(), {"left": left, "right": right}), tmp_path / "product.onnx")
    arrays = [left.numpy(), right.numpy()]
    session = open_session(engine, tmp_path / "product.onnx", threads=1, profile=True)
    np.testing.assert_allclose(session.run(*arrays)[0], (left @ right).numpy(), atol=1e-4)
    seconds = open_session(engine, tmp_path / "product.onnx", threads=1, profile=True).profile(arrays, 3)
    # 48,000 multiplications take microseconds; half a second is ample for any machine
    assert 0 < seconds["MatMul"] <= sum(seconds.values()) < 0.5


def test_averages_over_all_passes_become_those_without_the_first(monkeypatch):
    """OpenVINO gives the average over all passes: of 9, 9, 2, 2 and 5 ms, the last three have a mean of 3."""
    taken, done = [9, 9, 2, 2, 5], []
    session = OpenVINOSession.__new__(OpenVINOSession)
    monkeypatch.setattr(session, "run", lambda *inputs: done.append(taken[len(done)]), raising=False)

    class Request:
        @property
        def profiling_info(self):
            average = timedelta(milliseconds=sum(done) / len(done))
            # two operators of one type add up
            return [
                SimpleNamespace(node_type=kind, real_time=average) for kind in ("FullyConnected", "MatMul", "MatMul")
            ]

    session.request = Request()
    assert session.profile([], 3) == pytest.approx({"FullyConnected": 3e-3, "MatMul": 6e-3}, abs=1e-6)


def test_an_engine_that_is_unknown_or_not_installed(monkeypatch):
    with pytest.raises(ExportError, match="engine 'tensorrt' is unknown: use one of onnxruntime, openvino"):
        check_engine("tensorrt")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="openvino is not installed: pip install"):
        check_engine("openvino")
