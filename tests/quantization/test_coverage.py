"""The report lists every tensor, quantized or not, with its reason."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from psaq_mm.quantization import (
    CoverageRow,
    Quantizer,
    QuantMatMul,
    QuantPolicy,
    activation_spec,
    coverage,
    quantize_model,
    recording_sqnr,
)


def reasons(model: nn.Module, policy: QuantPolicy, prefix: str = "") -> dict[str, str]:
    return {row.name: row.reason for row in coverage(model, policy, prefix).rows}


def test_lists_every_parameter_once(float_net: nn.Module) -> None:
    parameters = {name for name, _ in float_net.named_parameters()}
    quantize_model(float_net, QuantPolicy())
    names = [row.name for row in coverage(float_net, QuantPolicy()).rows]
    assert parameters <= set(names)
    assert len(names) == len(set(names))


def test_counts(net: nn.Module) -> None:
    report = coverage(net, QuantPolicy())
    # Weights and inputs of 4 layers; 4 biases, 2 of the norm and the position table stay FP.
    assert (report.quantized, report.fp) == (8, 7)
    assert all(bool(row.reason) == (row.bits is None) for row in report.rows)


def test_sqnr_is_reported_once_recorded(net: nn.Module, images: Tensor) -> None:
    assert {row.sqnr for row in coverage(net, QuantPolicy()).rows} == {None}
    with recording_sqnr(net), torch.no_grad():
        net(images)
    assert all((row.sqnr is not None) == (row.bits is not None) for row in coverage(net, QuantPolicy()).rows)


class FunctionalAttention(nn.MultiheadAttention):
    """Of a class for which no quantized form can be registered, whatever other tests import."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x, x)[0]


@pytest.mark.parametrize(
    ("module", "tensor", "reason"),
    [
        pytest.param(nn.LayerNorm(4), "weight", "normalisation", id="layer-norm"),
        pytest.param(nn.GroupNorm(2, 4), "bias", "normalisation", id="group-norm"),
        pytest.param(nn.BatchNorm2d(4), "weight", "normalisation", id="batch-norm"),
        pytest.param(nn.Embedding(4, 4), "weight", "embedding", id="embedding"),
        pytest.param(nn.ConvTranspose1d(2, 2, 2), "weight", "ConvTranspose1d has no quantized sibling", id="1d"),
        pytest.param(nn.ConvTranspose1d(2, 2, 2), "input", "ConvTranspose1d has no quantized sibling", id="its-input"),
        pytest.param(nn.ConvTranspose2d(2, 2, 2, groups=2), "weight", "of several groups stay FP", id="groups"),
        pytest.param(nn.ConvTranspose2d(2, 2, 2, groups=2), "input", "of several groups stay FP", id="groups-input"),
        pytest.param(FunctionalAttention(4, 2), "in_proj_weight", "functionally", id="torch-attention"),
        pytest.param(FunctionalAttention(4, 2), "softmax", "functionally", id="torch-attention-product"),
        pytest.param(FunctionalAttention(4, 2), "out_proj.weight", "functionally", id="torch-attention-child"),
    ],
)
def test_unsupported_modules(module: nn.Module, tensor: str, reason: str) -> None:
    model = quantize_model(nn.ModuleDict({"part": module}), QuantPolicy())
    assert reason in reasons(model, QuantPolicy())[f"part.{tensor}"]


def test_override_and_scope_are_reasons(float_net: nn.Module) -> None:
    policy = QuantPolicy(overrides=[{"pattern": "net.mlp.0", "keep_fp": True}])
    quantize_model(float_net.mlp, policy, prefix="net.mlp")
    found = reasons(float_net, policy, prefix="net")
    assert found["net.mlp.0.weight"] == found["net.mlp.0.input"] == "kept FP by override 'net.mlp.0'"
    assert found["net.mlp.2.weight"] == ""
    assert "outside" in found["net.head.weight"]
    assert "bare" in found["net.position"]


def test_an_override_may_give_its_reason(float_net: nn.Module) -> None:
    overrides = [{"pattern": "mlp", "keep_fp": True, "reason": "measured"}, {"pattern": "mlp.2", "keep_fp": False}]
    policy = QuantPolicy(overrides=overrides)
    assert QuantPolicy.from_config(policy.to_config()) == policy
    found = reasons(quantize_model(float_net, policy), policy)
    assert (found["mlp.0.weight"], found["mlp.2.weight"]) == ("measured", "")


class Adapter(nn.Module):
    """Quantizes a table and a product, keeps another table and the softmax FP."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(3))
        self.table_quantizer = Quantizer(activation_spec(6))
        self.position = nn.Parameter(torch.ones(3))
        self.qk = QuantMatMul(activation_spec(4), None)
        self.sum_quantizer = Quantizer(activation_spec(8))
        self.fp_notes = {"softmax": "scheme deploy keeps softmax FP", "position": "tables are added in FP"}


def test_adapters_explain_themselves() -> None:
    rows = coverage(Adapter(), QuantPolicy()).rows
    assert set(rows) == {
        CoverageRow("table", "other", 6, None, ""),
        CoverageRow("position", "other", None, None, "tables are added in FP"),
        CoverageRow("sum", "activation", 8, None, ""),
        CoverageRow("softmax", "other", None, None, "scheme deploy keeps softmax FP"),
        CoverageRow("qk.left", "product", 4, None, ""),
        CoverageRow("qk.right", "product", None, None, "no quantizer was asked for"),
    }
    assert len(rows) == 6


def test_table_and_json(net: nn.Module, images: Tensor) -> None:
    with recording_sqnr(net), torch.no_grad():
        net(images)
    report = coverage(net, QuantPolicy())
    lines = report.table().splitlines()
    assert lines[0].split() == ["name", "kind", "bits", "SQNR", "dB", "why", "FP"]
    assert any(line.startswith("embed.weight") and " 8 " in line for line in lines)
    assert "weight: 4 of 4 quantized" in lines
    data = json.loads(report.to_json())
    assert (data["quantized"], data["fp"], len(data["rows"])) == (8, 7, 15)
    assert set(data["rows"][0]) == {"name", "kind", "bits", "sqnr", "reason"}
