"""Turning quantizers on one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from psaq_mm.analysis.probe import Probe, probed_tensors
from psaq_mm.quantization import QuantPolicy, calibrating, make_rounding, quantize_model


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def calibrated(net: nn.Module, images: torch.Tensor, rounding: str) -> Probe:
    method = make_rounding(rounding)

    def calibrate() -> None:
        with calibrating(net), torch.no_grad():
            net(images)
        with method.collect(net), torch.no_grad():
            net(images)
        method.apply(net)

    return Probe(net, calibrate)


@pytest.fixture(params=["nearest", "gptq"])
def probe(request) -> tuple[Probe, nn.Module, torch.Tensor]:
    net = network()
    images = torch.randn(64, 6)
    quantized = quantize_model(copy.deepcopy(net), QuantPolicy(weight_bits=4, activation_bits=4))
    return calibrated(quantized, images, request.param), net, images


def test_tensors_are_listed_in_the_order_of_the_modules(probe):
    tensors = probed_tensors(probe[0].network)
    assert [(one.layer, one.tensor, one.bits, one.parameters) for one in tensors] == [
        ("0", "input", 4, 0),
        ("0", "weight", 4, 48),
        ("2", "input", 4, 0),
        ("2", "weight", 4, 24),
    ]


def test_with_all_quantizers_off_the_network_is_the_float_one(probe):
    one, net, images = probe
    assert torch.equal(one.network(images), net(images))


@pytest.mark.parametrize("key", [("0", "weight"), ("0", "input"), ("2", "weight"), ("2", "input")], ids="-".join)
def test_one_tensor_alone_is_quantized(probe, key):
    one, net, images = probe
    layer = one.network.get_submodule(key[0])
    with one.only([key]) as quantized, torch.no_grad():
        moved = quantized(images)
        expected = copy.deepcopy(net)
        if key[1] == "weight":
            expected.get_submodule(key[0]).weight.copy_(layer.quantized_weight())
            assert torch.equal(moved, expected(images))
        else:
            expected.get_submodule(key[0]).register_forward_pre_hook(lambda _, args: layer.input_quantizer(args[0]))
            assert torch.equal(moved, expected(images))
        assert not torch.equal(moved, net(images))
    assert torch.equal(one.network(images), net(images))


def test_all_tensors_give_the_calibrated_network(probe):
    one, net, images = probe
    twin = quantize_model(copy.deepcopy(net), QuantPolicy(weight_bits=4, activation_bits=4))
    rounding = make_rounding("nearest")
    with calibrating(twin), torch.no_grad():
        twin(images)
    rounding.apply(twin)
    with one.only([tensor.key for tensor in probed_tensors(one.network)]) as quantized, torch.no_grad():
        moved = quantized(images)
        for name in ("0", "2"):  # GPTQ differs from the twin in the weights alone
            twin.get_submodule(name).weight.copy_(quantized.get_submodule(name).weight)
            twin.get_submodule(name).weight_quantizer.keep_scale(twin.get_submodule(name).weight)
        # activations are observed behind quantized weights, nearest ones in both networks
        assert torch.allclose(moved, twin(images), atol=1e-6)


def test_an_error_inside_turns_all_quantizers_off(probe):
    one, net, images = probe
    with pytest.raises(RuntimeError, match="inside"), one.only([("0", "weight")]):
        raise RuntimeError("inside")
    assert torch.equal(one.network(images), net(images))
    with pytest.raises(KeyError), one.only([("0", "weight"), ("1", "weight")]):
        pass
    assert torch.equal(one.network(images), net(images))
