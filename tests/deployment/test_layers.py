"""Stored integers against the simulation that they stand for."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.backbones import SwinTransformer
from torch import Tensor, nn

from psaq_mm.deployment import ActivationQDQ, DeployConv2d, DeployConvTranspose2d, DeployLinear, ExportError, deployed
from psaq_mm.models import quantize_in_place
from psaq_mm.quantization import (
    QuantConv2d,
    QuantConvTranspose2d,
    QuantizationError,
    Quantizer,
    QuantLinear,
    QuantSpec,
    activation_spec,
    calibrating,
    equalizing,
    freeze,
    sqnr,
    weight_spec,
)
from tests.conftest import random_weights

BITS = pytest.mark.parametrize("bits", [2, 4, 6, 8], ids=lambda bits: f"{bits}bit")
GRANULARITY = pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
SWIN = {"embed_dims": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}


def calibrated(spec: QuantSpec, x: Tensor) -> Quantizer:
    quantizer = Quantizer(spec, "act")
    quantizer.observe()
    quantizer(x)
    quantizer.calibrate()
    quantizer.freeze()
    return quantizer


def simulated_integers(x: Tensor, quantizer: Quantizer) -> Tensor:
    """The integers on which the simulation's output lies."""
    return (quantizer(x) / quantizer.scale + quantizer.zero_point.round()).round()


def linear(bits: int, granularity: str, bias: bool = True) -> tuple[QuantLinear, Tensor]:
    """A calibrated layer whose inputs have channels of very different sizes and places, and such inputs."""
    torch.manual_seed(0)
    x = torch.randn(50, 24) * torch.logspace(-1, 1, 24) + torch.linspace(-2, 2, 24)
    layer = QuantLinear.from_module(
        nn.Linear(24, 12, bias=bias), weight_spec(bits, "mse"), activation_spec(bits, granularity=granularity)
    )
    with torch.no_grad(), calibrating(layer):
        layer(x)
    freeze(layer)
    return layer, x


@BITS
@GRANULARITY
def test_activation_integers_equal_the_simulations(bits: int, granularity: str) -> None:
    """At least 99.9 % and never off by more than one: an engine divides by the scale, torch multiplies by 1 / scale."""
    x = torch.randn(400, 300) * torch.logspace(-1, 1, 300) + torch.linspace(-2, 2, 300)
    quantizer = calibrated(activation_spec(bits, "percentile", percentile=1.0, granularity=granularity), x)
    off = (ActivationQDQ(quantizer).integers(x).float() - simulated_integers(x, quantizer)).abs()
    assert (off == 0).double().mean() >= 0.999 and off.max() <= 1


@BITS
@GRANULARITY
def test_weight_integers_equal_the_simulations(bits: int, granularity: str) -> None:
    layer, _ = linear(bits, granularity)
    stored = DeployLinear(layer).weight
    fold = layer.input_channel_scale()
    on_grid = layer.quantized_weight() if fold is None else layer.quantized_weight() * fold
    expected = on_grid / layer.weight_quantizer.scale.view(-1, 1)
    # what multiplies of a scale miss of integers is float32's rounding
    torch.testing.assert_close(stored.integers.T.float(), expected, rtol=0, atol=1e-3)
    limit = layer.weight_quantizer.spec.quant_max
    assert stored.integers.dtype == torch.int8 and int(stored.integers.abs().max()) <= limit
    assert torch.equal(stored.scale, layer.weight_quantizer.scale)


@BITS
@GRANULARITY
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_a_linear_computes_the_same(bits: int, granularity: str, bias: bool) -> None:
    """Also where zero points differ by channel and move into the bias. 60 dB: a tie may fall to the other side."""
    layer, x = linear(bits, granularity, bias)
    assert sqnr(layer(x), DeployLinear(layer)(x)) > 60


@BITS
def test_a_convolution_computes_the_same_at_its_borders_too(bits: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 9) + 1
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    layer = QuantConv2d.from_module(conv, weight_spec(bits), activation_spec(bits))
    with torch.no_grad(), calibrating(layer):
        layer(x)
    freeze(layer)
    assert sqnr(layer(x), DeployConv2d(layer)(x)) > 60


# kernel, stride, padding, output padding, dilation; and whether it is deployed as a convolution
TRANSPOSED = {
    "mask-head": ((2, 2, 0, 0, 1), True),
    "pyramid": ((4, 4, 0, 0, 1), True),
    "unequal": (((2, 3), (2, 3), 0, 0, 1), False),
    "overlapping": ((3, 2, 1, 1, 1), False),
    "gaps": ((2, 3, 0, 0, 1), False),
    "cut": ((2, 2, 1, 0, 1), False),
    "dilated": ((2, 2, 0, 0, 2), False),
}


def transposed(name: str, bits: int, bias: bool = True) -> tuple[QuantConvTranspose2d, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 4) + 1
    kernel, stride, padding, output_padding, dilation = TRANSPOSED[name][0]
    conv = nn.ConvTranspose2d(6, 5, kernel, stride, padding, output_padding, 1, bias, dilation)
    layer = QuantConvTranspose2d.from_module(conv, weight_spec(bits), activation_spec(bits))
    with torch.no_grad(), calibrating(layer):
        layer(x)
    freeze(layer)
    return layer, x


@BITS
@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_a_transposed_convolution_computes_the_same(bits: int, name: str, bias: bool) -> None:
    layer, x = transposed(name, bits, bias)
    form = DeployConvTranspose2d(layer)
    assert bool(form.factor) == TRANSPOSED[name][1]
    assert sqnr(layer(x), form(x)) > 60


def test_a_transposed_convolution_may_keep_a_float_weight() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 4)
    for kernel in (2, 3):
        conv = nn.ConvTranspose2d(6, 5, kernel, stride=2)
        form = DeployConvTranspose2d(QuantConvTranspose2d.from_module(conv, None, None))
        # float32 sums in another order
        torch.testing.assert_close(form(x), conv(x), atol=1e-5, rtol=1e-4)


def quantized_swin(**options) -> nn.Module:
    torch.manual_seed(0)
    model = random_weights(SwinTransformer(**SWIN))
    quantize_in_place(model, {"weight_bits": 8, "activation_bits": 8, **options})
    images = torch.randn(1, 3, 64, 96)
    for context in (equalizing, calibrating):
        with torch.no_grad(), context(model):
            model(images)
    freeze(model)
    return model


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="deploy"),
        pytest.param({"scheme": "paper"}, id="paper"),
        pytest.param({"softmax_granularity": "per_row"}, id="rows"),
        pytest.param({"qk_migration": 0.5}, id="equalized"),
        pytest.param({"rotation": "hadamard"}, id="rotated"),
        pytest.param(
            {"rotation": "hadamard", "norm_inputs": "per_channel", "qk_migration": 0.5}, id="rotated-equalized"
        ),
        pytest.param(
            {"weight_bits": 4, "activation_bits": 4, "norm_inputs": "per_channel", "softmax_grid": "log2"}, id="w4a4"
        ),
    ],
)
def test_a_backbone_computes_the_same_and_the_original_stays(options: dict) -> None:
    model = quantized_swin(**options)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = deployed(model)(x), model(x)
    for one, other in zip(ours, theirs, strict=True):
        # random weights amplify a tie that fell to the other side, the more the wider the steps
        assert sqnr(other, one) > 3 * options.get("activation_bits", 8)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)


def test_what_cannot_be_stored_is_said() -> None:
    with pytest.raises(ExportError, match="nothing in the model is quantized"):
        deployed(nn.Linear(3, 3))
    model = SwinTransformer(**SWIN)
    quantize_in_place(model, {})
    with pytest.raises(QuantizationError, match="68 quantizers are not calibrated"):
        deployed(model)
