"""Swapping modules: what is converted, what is left alone, and how users extend it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from psaq_mm.quantization import (
    QuantConv2d,
    QuantizationError,
    QuantLinear,
    QuantMatMul,
    QuantPolicy,
    convert,
    convert_child,
    is_quantized,
    quantize_linear,
    quantize_model,
    register_quantized,
)
from tests.quantization.switching import enable_quantizers


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers ends with it."""
    monkeypatch.setattr(convert.FACTORIES, "values", dict(convert.FACTORIES.values))


class PlainLinear(nn.Linear):
    """A subclass that computes as its base."""


class DoubledLinear(nn.Linear):
    """A subclass that doesn't."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Attention(nn.Module):
    """A compound with a product that no module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.qk = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, -1)
        return q @ k.transpose(-2, -1)


class QuantAttention(nn.Module):
    def __init__(self, module: Attention, name: str, policy: QuantPolicy) -> None:
        super().__init__()
        specs = policy.specs(name)
        assert specs is not None
        self.qk = convert_child(module.qk, f"{name}.qk", policy)
        self.product = QuantMatMul(specs.activation, specs.activation, name=f"{name}.product")
        self.untouched = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, -1)
        return self.product(q, k.transpose(-2, -1))


def test_swaps_in_place_and_computes_the_same_while_disabled(float_net: nn.Module, images: Tensor) -> None:
    expected, parameters = float_net(images), list(float_net.parameters())
    assert quantize_model(float_net, QuantPolicy()) is float_net
    types = [type(m) for m in (float_net.embed, float_net.mlp[0], float_net.mlp[1], float_net.norm, float_net.head)]
    assert types == [QuantConv2d, QuantLinear, nn.GELU, nn.LayerNorm, QuantLinear]
    names = {name: p for name, p in float_net.named_parameters() if "quantizer" not in name}
    assert all(a is b for a, b in zip(names.values(), parameters, strict=True))
    enable_quantizers(float_net, False)
    assert torch.equal(float_net(images), expected)


def test_policy_decides_bits_and_exceptions(float_net: nn.Module) -> None:
    overrides = [{"pattern": "net.embed", "bits": 8}, {"pattern": "net.head", "keep_fp": True}]
    quantize_model(float_net, QuantPolicy(4, 6, overrides=overrides), prefix="net")
    assert type(float_net.head) is nn.Linear
    assert float_net.embed.weight_quantizer.spec.bits == 8
    assert float_net.mlp[0].weight_quantizer.spec.bits == 4
    assert float_net.mlp[0].input_quantizer.name == "net.mlp.0.input_quantizer"


def test_unmatched_override_is_refused(float_net: nn.Module) -> None:
    with pytest.raises(QuantizationError, match="'mlp.4' matches no module.*mlp"):
        quantize_model(float_net, QuantPolicy(overrides=[{"pattern": "mlp.4", "bits": 8}]))


def test_a_registered_root_is_replaced() -> None:
    assert type(quantize_model(nn.Linear(2, 2), QuantPolicy())) is QuantLinear


def test_converting_twice_changes_nothing(float_net: nn.Module) -> None:
    quantize_model(float_net, QuantPolicy())
    before = list(float_net.modules())
    quantize_model(float_net, QuantPolicy())
    assert all(a is b for a, b in zip(float_net.modules(), before, strict=True))


def test_shared_modules_stay_shared() -> None:
    shared = nn.Linear(2, 2)
    model = quantize_model(nn.Sequential(shared, nn.Sequential(shared), shared), QuantPolicy())
    assert type(model[0]) is QuantLinear
    assert model[0] is model[1][0] is model[2]


def test_subclasses_convert_only_if_they_compute_as_their_base() -> None:
    model = quantize_model(nn.Sequential(PlainLinear(2, 2), DoubledLinear(2, 2)), QuantPolicy())
    assert [type(m) for m in model] == [QuantLinear, DoubledLinear]
    register_quantized(DoubledLinear)(quantize_linear)
    assert type(quantize_model(model, QuantPolicy())[1]) is QuantLinear


class FunctionalAttention(nn.MultiheadAttention):
    """Of a class for which no quantized form can be registered, whatever other tests import."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x, x)[0]


def test_torch_attention_without_a_quantized_form_is_left_alone() -> None:
    model = quantize_model(nn.Sequential(FunctionalAttention(4, 2), nn.Linear(4, 4)), QuantPolicy())
    assert not any(is_quantized(module) for module in model[0].modules())
    assert type(model[1]) is QuantLinear


class TestCompound:
    @pytest.fixture(autouse=True)
    def _register(self) -> None:
        register_quantized(Attention)(QuantAttention)

    def test_owns_its_children(self) -> None:
        model = quantize_model(nn.Sequential(Attention()), QuantPolicy(overrides=[{"pattern": "0.product", "bits": 8}]))
        assert type(model[0]) is QuantAttention and is_quantized(model[0])
        assert type(model[0].qk) is QuantLinear
        assert type(quantize_model(model, QuantPolicy())[0].untouched) is nn.Linear

    def test_kept_float_it_stays_whole(self) -> None:
        model = quantize_model(nn.Sequential(Attention()), QuantPolicy(overrides=[{"pattern": "0", "keep_fp": True}]))
        assert type(model[0]) is Attention and type(model[0].qk) is nn.Linear

    def test_computes_the_same_while_disabled(self) -> None:
        attention, x = Attention(), torch.randn(2, 3, 4)
        expected = attention(x)
        model = quantize_model(attention, QuantPolicy())
        enable_quantizers(model, False)
        assert torch.equal(model(x), expected)
