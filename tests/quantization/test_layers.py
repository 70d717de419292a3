"""Quantized layers: equal to their float siblings while off, and to the formula while on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from psaq_mm.quantization import (
    QuantConv2d,
    QuantConvTranspose2d,
    QuantizationError,
    QuantLinear,
    QuantMatMul,
    State,
    activation_spec,
    calibrating,
    freeze,
    weight_spec,
)
from tests.quantization.switching import enable_quantizers

LAYERS = pytest.mark.parametrize(
    ("layer", "shape"),
    [
        pytest.param(lambda: nn.Linear(6, 4), (3, 5, 6), id="linear"),
        pytest.param(lambda: nn.Linear(6, 4, bias=False), (3, 6), id="linear-no-bias"),
        pytest.param(lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 8, 8), id="conv"),
        pytest.param(
            lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2, padding_mode="reflect", bias=False),
            (2, 4, 8, 8),
            id="conv-reflect",
        ),
        pytest.param(lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 7), id="transposed"),
        pytest.param(
            lambda: nn.ConvTranspose2d(4, 6, (3, 4), (2, 1), (1, 0), (1, 0), bias=False, dilation=2),
            (2, 4, 5, 7),
            id="transposed-overlapping",
        ),
    ],
)


def quantized(layer: nn.Module, **specs) -> nn.Module:
    forms = {nn.Linear: QuantLinear, nn.Conv2d: QuantConv2d, nn.ConvTranspose2d: QuantConvTranspose2d}
    cls = forms[type(layer)]
    return cls.from_module(layer, **{"weight": weight_spec(8), "input": activation_spec(8), **specs}, name="layer")


def calibrate(module: nn.Module, *inputs: Tensor) -> nn.Module:
    with calibrating(module), torch.no_grad():
        module(*inputs)
    return module


PER_CHANNEL = activation_spec(4, granularity="per_channel")


@LAYERS
def test_is_the_float_layer_while_disabled(layer, shape: tuple[int, ...]) -> None:
    float_layer, x = layer().eval(), torch.randn(shape)
    module = quantized(float_layer)
    enable_quantizers(module, False)
    assert torch.equal(module(x), float_layer(x))
    assert module.weight is float_layer.weight and module.bias is float_layer.bias
    assert not module.training
    own = {key for key in module.state_dict() if "quantizer" not in key}
    assert own == set(float_layer.state_dict())


@LAYERS
def test_quantizes_weight_and_input(layer, shape: tuple[int, ...]) -> None:
    float_layer, x = layer(), torch.randn(shape)
    module = calibrate(quantized(float_layer), x)
    expected = copy.deepcopy(float_layer)
    expected.weight.data = module.weight_quantizer(float_layer.weight).data
    assert torch.equal(module(x), expected(module.input_quantizer(x)))
    # 8 bits: an error of about 1 %, not 0.
    error = (module(x) - float_layer(x)).norm() / float_layer(x).norm()
    assert 0 < error < 0.03


@LAYERS
def test_gradients_reach_weight_bias_input_and_scales(layer, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    module = calibrate(quantized(layer()), x)
    module(x).square().sum().backward()
    assert x.grad is not None
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == ("weight_quantizer" not in name), name


def test_a_transposed_convolution_has_a_scale_for_each_output_channel() -> None:
    layer, x = nn.ConvTranspose2d(3, 4, 2, stride=2), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        layer.weight *= torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(1, 4, 1, 1)
    module = calibrate(quantized(layer), x)
    # by hand: the largest weight of each channel becomes 127
    torch.testing.assert_close(module.weight_quantizer.scale, layer.weight.detach().abs().amax((0, 2, 3)) / 127)


@pytest.mark.parametrize(
    ("layer", "specs", "said"),
    [
        (nn.ConvTranspose2d(4, 4, 2, groups=2), {}, "'layer': a ConvTranspose2d with 2 groups: keep it FP"),
        (nn.ConvTranspose2d(4, 4, 2), {"input": PER_CHANNEL}, "input of a ConvTranspose2d needs one scale"),
        (nn.Conv2d(4, 4, 2), {"input": PER_CHANNEL}, "input of a Conv2d needs one scale"),
    ],
    ids=["groups", "transposed-per-channel", "conv-per-channel"],
)
def test_what_a_convolution_cannot_have(layer, specs, said) -> None:
    with pytest.raises(QuantizationError, match=said):
        quantized(layer, **specs)


@pytest.mark.parametrize("role", ["weight", "input", "output"])
def test_none_keeps_a_tensor_float(role: str) -> None:
    specs = {"weight": None, "input": None, "output": None}
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    assert torch.equal(quantized(layer, **specs)(x), layer(x))
    specs[role] = weight_spec(8) if role == "weight" else activation_spec(8)
    module = calibrate(quantized(layer, **specs), x)
    present = [r for r in specs if getattr(module, f"{r}_quantizer") is not None]
    assert present == [role]
    assert not torch.equal(module(x), layer(x))


def test_quantizer_names() -> None:
    module = quantized(nn.Linear(2, 2), output=activation_spec(8))
    names = [module.weight_quantizer.name, module.input_quantizer.name, module.output_quantizer.name]
    assert names == ["layer.weight_quantizer", "layer.input_quantizer", "layer.output_quantizer"]


def test_keeps_requires_grad() -> None:
    layer = nn.Linear(2, 2).requires_grad_(False)
    assert not quantized(layer).weight.requires_grad


@pytest.mark.parametrize("frozen", [False, True], ids=["calibrated", "frozen"])
def test_saved_after_an_optimizer_step_loads_bit_identical(frozen: bool) -> None:
    """The step moves the weight after its scale was last computed; saving and freezing bring it up to date."""
    x = torch.randn(8, 6)
    module = calibrate(quantized(nn.Linear(6, 4), weight=weight_spec(4, "mse")), x)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    module(x).square().sum().backward()
    optimizer.step()
    state = copy.deepcopy(module.state_dict())
    loaded = quantized(nn.Linear(6, 4), weight=weight_spec(4, "mse"))
    loaded.load_state_dict(state)
    if frozen:
        for quantizer in (loaded.weight_quantizer, loaded.input_quantizer):
            quantizer.freeze()
        freeze(module)
    with torch.no_grad():
        assert torch.equal(loaded(x), module(x))


def test_float_checkpoint_loads_strictly() -> None:
    layer = nn.Linear(3, 3)
    module = quantized(nn.Linear(3, 3))
    module.load_state_dict(layer.state_dict())
    assert torch.equal(module.weight, layer.weight)
    assert module.weight_quantizer.state is State.UNCALIBRATED


def test_deepcopy_does_not_share() -> None:
    x = torch.randn(4, 3)
    module = calibrate(quantized(nn.Linear(3, 3)), x)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    assert twin.weight is not module.weight and twin.input_quantizer.scale is not module.input_quantizer.scale


@pytest.mark.parametrize("roles", [(), ("left",), ("left", "right"), ("left", "right", "output")], ids="-".join)
def test_matmul(roles: tuple[str, ...]) -> None:
    specs = {role: activation_spec(8) if role in roles else None for role in ("left", "right", "output")}
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5, 4)
    module = calibrate(QuantMatMul(**specs, name="qk"), a, b)
    left = module.left_quantizer(a) if "left" in roles else a
    right = module.right_quantizer(b) if "right" in roles else b
    expected = left @ right
    if "output" in roles:
        expected = module.output_quantizer(expected)
    assert torch.equal(module(a, b), expected)
    enable_quantizers(module, False)
    assert torch.equal(module(a, b), a @ b)


def per_channel_layer() -> tuple[QuantLinear, Tensor]:
    """A layer whose input channels differ in size a hundredfold, with what it was calibrated on."""
    layer = quantized(nn.Linear(6, 4).eval(), weight=weight_spec(4), input=PER_CHANNEL)
    x = torch.randn(64, 6) * torch.logspace(-1, 1, 6) + torch.linspace(-2, 2, 6)
    return calibrate(layer, x), x


def test_an_input_per_channel_runs_as_integers_with_one_scale() -> None:
    layer, x = per_channel_layer()
    s, z, shared = layer.input_quantizer.scale, layer.input_quantizer.zero_point, layer.input_quantizer.scale.mean()
    # What a LayerNorm's gamma and beta take over: x / r, moved so that all channels have the zero point 0.
    folded = x / (s / shared) + z * shared
    q_x = (folded / shared).round().clamp(0, 15)
    q_w = (layer.weight * (s / shared) / layer.weight_quantizer.scale[:, None]).round()
    assert q_w.abs().max() == 7
    integers = (q_x @ q_w.T - z @ q_w.T) * shared * layer.weight_quantizer.scale
    # float32 sums of six products of other rounding; a value that lies on a tie would be off by a whole step
    torch.testing.assert_close(layer(x), integers + layer.bias, atol=1e-4, rtol=1e-4)


def test_an_input_per_channel_is_finer_than_one_scale() -> None:
    layer, x = per_channel_layer()
    coarse = calibrate(quantized(nn.Linear(6, 4).eval(), weight=None, input=activation_spec(4)), x)
    fine, plain = layer.input_quantizer(x), coarse.input_quantizer(x)
    assert ((fine - x) ** 2).mean(0)[0] < 0.01 * ((plain - x) ** 2).mean(0)[0]


def test_a_folded_weight_survives_a_checkpoint() -> None:
    layer, x = per_channel_layer()
    other = quantized(nn.Linear(6, 4).eval(), weight=weight_spec(4), input=PER_CHANNEL)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    freeze(layer)
    assert torch.equal(other(x), layer(x))


def test_a_conv_refuses_an_input_per_channel() -> None:
    with pytest.raises(QuantizationError, match="only a Linear's"):
        quantized(nn.Conv2d(3, 4, 1), input=PER_CHANNEL)
