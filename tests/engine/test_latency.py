"""The time of layers in an engine: what is measured, how often, and going on where it stopped."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil

import pytest
import torch
from torch import nn

from psaq_mm.analysis.operations import InputTensor
from psaq_mm.deployment import engines, onnx_graph
from psaq_mm.engine.analysis import latency
from psaq_mm.engine.analysis.latency import (
    FloatLayer,
    LayerTimes,
    calls_of,
    deployment_function,
    example,
    flat,
    integer_form,
    seconds_of,
    total,
)
from psaq_mm.engine.analysis.mixed import mixed_recipe
from psaq_mm.engine.analysis.sensitivity import SensitivityRun
from psaq_mm.engine.analysis.table import SensitivityTable
from psaq_mm.engine.runner import DFQRunner
from psaq_mm.errors import ExportError, UsageError
from psaq_mm.quantization import QuantizedLayer, QuantMatMul, QuantPolicy, activation_spec, quantize_model
from tests.conftest import named

NEEDED = ("onnx", "onnxscript", "onnxruntime", "openvino")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="the extra [deploy] is not installed"
)


class Net(nn.Module):
    """Two equal layers, one of which runs twice, a third, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.second(self.first(x)))
        return self.last(self.product(x, x.mT) @ x)


def net() -> nn.Module:
    network = quantize_model(Net(), QuantPolicy())
    network.product = QuantMatMul(activation_spec(8), activation_spec(8))
    return network


@pytest.fixture
def measured(monkeypatch):
    """What was measured instead of running an engine, and the seconds that it takes."""
    seen: list[tuple[str, tuple]] = []

    def seconds(layer, inputs, engine):
        seen.append((type(layer).__name__, inputs))
        return {"32": float(len(seen)), "8": len(seen) / 2}

    monkeypatch.setattr(latency, "seconds_of", seconds)
    return seen


def calls(network: nn.Module) -> dict:
    return calls_of(network, lambda model: model(torch.randn(2, 5, 6)))


def test_different_layers_are_measured_once_and_calls_add_up(measured):
    network, times = net(), {}
    timer = LayerTimes(network, calls(network), "openvino", times)
    assert len(timer) == 3 and list(timer) == [1, 2, 3]
    assert [name for name, _ in measured] == ["QuantLinear", "QuantMatMul", "QuantLinear"]
    assert times == {
        "first": {"32": 1.0, "8": 0.5},
        "second": {"32": 2.0, "8": 1.0},
        "product": {"32": 2.0, "8": 1.0},
        "last": {"32": 3.0, "8": 1.5},
    }, "a layer that does not run has no time"


def test_what_has_a_time_is_not_measured_again(measured):
    network = net()
    times = {name: {"32": 7.0, "8": 7.0} for name in ("first", "second", "product")}
    assert list(LayerTimes(network, calls(network), "openvino", times)) == [1]
    assert len(measured) == 1 and times["last"] == {"32": 1.0, "8": 0.5} and times["first"]["32"] == 7.0
    assert not LayerTimes(network, calls(network), "openvino", times)


def test_other_quantizers_are_measured_apart(measured):
    network = quantize_model(Net(), QuantPolicy(overrides=[{"pattern": "second", "rotation": "hadamard"}]))
    network.product = QuantMatMul(None, None)
    times: dict = {}
    assert list(LayerTimes(network, calls(network), "openvino", times)) == [1, 2, 3]
    assert "product" not in times, "it stays in floating point"


@pytest.mark.parametrize(
    ("layer", "shapes", "expected"),
    [
        pytest.param(nn.Linear(96, 8), [(2, 7, 7, 96)], [(1, 1, 98, 96)], id="Linear"),
        pytest.param(nn.Linear(96, 8), [(5, 96)], [(1, 1, 5, 96)], id="Linear without tokens"),
        pytest.param(nn.Conv2d(3, 4, 1), [(3, 8, 8)], [(1, 3, 8, 8)], id="Conv2d without batch"),
        pytest.param(QuantMatMul(None, None), [(6, 3, 9, 4), (6, 3, 4, 9)], [(6, 3, 9, 4), (6, 3, 4, 9)], id="heads"),
        pytest.param(QuantMatMul(None, None), [(6, 9, 4), (6, 4, 9)], [(1, 6, 9, 4), (1, 6, 4, 9)], id="three"),
        pytest.param(
            QuantMatMul(None, None), [(2, 5, 3, 9, 4), (2, 1, 3, 4, 9)], [(10, 3, 9, 4), (10, 3, 4, 9)], id="five"
        ),
    ],
)
def test_inputs_have_four_dimensions(layer, shapes, expected):
    inputs = tuple(InputTensor(one, 0.5) for one in shapes)
    assert flat(layer, inputs, subnormal=True) == tuple(InputTensor(one, 0.5) for one in expected)
    assert flat(layer, inputs, subnormal=False) == tuple(InputTensor(one) for one in expected)


def test_inputs_have_their_share_of_subnormal_numbers():
    found = example(QuantMatMul(None, None), (InputTensor((1, 1, 50, 40), 0.25), InputTensor((1, 1, 40, 9))))
    small = (found["left"].abs() < 1e-38).float().mean()
    # of 2000 drawn values; four standard deviations are 0.04
    assert float(small) == pytest.approx(0.25, abs=0.04) and bool((found["left"] != 0).all())
    assert bool((found["right"].abs() > 1e-38).all())
    logarithmic = example(
        QuantMatMul(activation_spec(4, grid="log2"), activation_spec(4)), (InputTensor((1, 1, 5, 4)),) * 2
    )
    assert 0 < float(logarithmic["left"].min()) < float(logarithmic["left"].max()) < 1
    assert float(logarithmic["right"].min()) < 0


def test_a_form_that_a_call_lacks_has_no_sum():
    assert total([{"32": 1.0, "8": 0.5}, {"32": 2.0}]) == {"32": 3.0}


@installed
def test_the_forms_are_those_of_an_exported_file():
    network = quantize_model(nn.Sequential(nn.Linear(12, 8), nn.Conv2d(4, 6, 3, padding=1)), QuantPolicy())
    for layer, shape, product in ((network[0], (1, 1, 10, 12), "MatMul"), (network[1], (1, 4, 9, 9), "Conv")):
        inputs = example(layer, (InputTensor(shape),))
        expected = layer.compute(inputs["input"], layer.weight).detach()
        floating, integers = FloatLayer(layer), integer_form(copy.deepcopy(layer), inputs)
        assert torch.equal(floating(*inputs.values())[0], expected)
        kinds = [[node.op_type for node in onnx_graph(one, inputs).graph.node] for one in (floating, integers)]
        assert product in kinds[0] and not {"QuantizeLinear", "DequantizeLinear"} & set(kinds[0])
        assert product in kinds[1] and kinds[1].count("DequantizeLinear") == 2


@installed
def test_a_product_with_every_setting_is_exported():
    layer = QuantMatMul(activation_spec(8, grid="log2"), activation_spec(8), migration=0.5, centered=True)
    inputs = example(layer, (InputTensor((1, 2, 8, 4)), InputTensor((1, 2, 4, 8))))
    network = integer_form(layer, inputs)
    assert network.layer.ratio.shape == network.layer.center.shape == (2, 4)
    kinds = [node.op_type for node in onnx_graph(network, inputs).graph.node]
    # the logarithmic operand is rounded in floating point
    assert "MatMul" in kinds and kinds.count("QuantizeLinear") == 1


@installed
@pytest.mark.parametrize("engine", engines.ENGINES)
def test_times_are_measured_in_the_engine(monkeypatch, engine):
    monkeypatch.setattr(latency, "ROUNDS", 1)
    network = quantize_model(nn.Sequential(nn.Linear(64, 64)), QuantPolicy())
    taken = seconds_of(network[0], (InputTensor((1, 1, 100, 64)),), engine)
    # 400,000 multiplications; half a second is ample for any machine
    assert set(taken) == {"32", "8"} and all(0 < seconds < 0.5 for seconds in taken.values())
    assert all(module.enabled for module in network.modules() if hasattr(module, "enabled"))


@installed
def test_a_layer_that_is_not_exported_in_integers_has_its_time_in_floating_point(monkeypatch):
    monkeypatch.setattr(latency, "ROUNDS", 1)
    (layer,) = quantize_model(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), QuantPolicy())
    assert set(seconds_of(layer, (InputTensor((1, 3, 8, 8)),), "onnxruntime")) == {"32"}


def analysis(recipe, folder, **options) -> SensitivityRun:
    return SensitivityRun(recipe(options.pop("options", None)), (8,), folder, images=1, **options)


@pytest.fixture(scope="module")
def rows(tiny_recipe, tiny_checkpoint, tmp_path_factory):
    """The sensitivities of the shrunken detector, without times."""
    folder = tmp_path_factory.mktemp("rows")
    run = SensitivityRun(named(copy.deepcopy(tiny_recipe), folder), (8,), folder, images=1)
    run.run()
    return run.folder


@pytest.fixture
def folder(rows, tmp_path):
    """A copy of them, with the images."""
    return shutil.copytree(rows, tmp_path / "copied")


@installed
def test_an_interrupted_measurement_goes_on_with_the_missing_layers(recipe, folder, measured, monkeypatch):
    counted = latency.seconds_of

    def stops(*args):
        if len(measured) == 5:
            raise KeyboardInterrupt
        return counted(*args)

    monkeypatch.setattr(latency, "seconds_of", stops)
    with pytest.raises(KeyboardInterrupt):
        analysis(recipe, folder, engine="openvino").run()
    first = SensitivityTable.load(folder / "sensitivity.json").latency["openvino"]
    assert len(first) >= 5
    monkeypatch.setattr(latency, "seconds_of", counted)
    table = analysis(recipe, folder, engine="openvino").run()
    assert first.items() <= table.latency["openvino"].items()
    assert set(table.latency["openvino"]) == set(table.operations)
    before = len(measured)
    assert before < len(table.operations), "equal layers are measured once"
    again = analysis(recipe, folder, engine="openvino").run()
    assert len(measured) == before and again.latency == table.latency
    assert SensitivityTable.load(folder / "sensitivity.json") == again
    other = analysis(recipe, folder, engine="onnxruntime").run()
    assert len(measured) > before and set(other.latency) == {"openvino", "onnxruntime"}


@installed
def test_layers_of_a_budget_stay_in_floating_point_in_the_quantized_model(recipe, folder, measured):
    table = analysis(recipe, folder, engine="openvino").run()
    chosen = table.allocate("latency=0.8")
    kept, quantized = chosen.layers(floating=True), chosen.layers(floating=False)
    assert kept and quantized and chosen.share <= 0.8
    cfg = named(mixed_recipe(recipe(), table.overrides("latency=0.8", engine="openvino")), folder / "mixed")
    runner = DFQRunner.from_cfg(cfg)
    runner.prepare()
    for name in quantized:
        assert isinstance(runner.student.get_submodule(name), (QuantizedLayer, QuantMatMul)), name
    for name in kept:
        layer = runner.student.get_submodule(name)
        assert type(layer) is QuantMatMul and layer.left_quantizer is None or not isinstance(layer, QuantizedLayer)
    assert {row["pattern"] for row in runner.policy.overrides if row.get("keep_fp")} >= set(kept)


def test_times_of_an_engine_that_was_not_measured_are_refused(rows):
    table = SensitivityTable.load(rows / "sensitivity.json")
    with pytest.raises(UsageError, match="have no times in an engine: analyze the model with engine=..."):
        table.allocate("latency=0.5")
    table.latency = {"openvino": {}, "onnxruntime": {}}
    with pytest.raises(UsageError, match="measured in onnxruntime and openvino: name the engine"):
        table.times()
    with pytest.raises(UsageError, match="have no times in tensorrt"):
        table.times("tensorrt")


def test_a_file_without_times_is_read(rows, tmp_path):
    record = json.loads((rows / "sensitivity.json").read_text())
    assert record.pop("latency") == {}
    (tmp_path / "sensitivity.json").write_text(json.dumps(record))
    assert SensitivityTable.load(tmp_path / "sensitivity.json") == SensitivityTable.load(rows / "sensitivity.json")


def test_an_engine_that_is_missing_is_named_before_any_work(recipe, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="engine 'tensorrt' is unknown"):
        analysis(recipe, tmp_path, engine="tensorrt")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="openvino is not installed"):
        analysis(recipe, tmp_path, engine="openvino")
    assert not (tmp_path / "analysis").exists()


def test_heads_run_on_as_many_boxes_as_the_detector_keeps(recipe, tmp_path):
    run = analysis(recipe, tmp_path, options={"dfq.quantization.scope": "model"})
    run.runner.prepare()
    outputs = deployment_function("model", run.runner.teacher)
    # the shrunken recipe's test_cfg
    assert (outputs.proposals, outputs.masks) == (100, 60)
    found = calls_of(run.network(8), lambda model: outputs(model, torch.randn(1, 3, 64, 64)))
    (boxes,), (masks,) = found["roi_head.bbox_head.fc_cls"][0], found["roi_head.mask_head.conv_logits"][0]
    assert 0 < boxes.shape[0] <= 100 and 0 < masks.shape[0] <= 60
