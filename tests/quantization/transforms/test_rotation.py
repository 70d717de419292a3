"""Rotation by Hadamard matrices: no effect while nothing is quantized, finer steps where channels have outliers."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from psaq_mm.quantization import (
    QuantizationError,
    QuantLinear,
    QuantPolicy,
    QuantSpec,
    activation_spec,
    calibrating,
    gptq,
    make_rounding,
    quantize_model,
    quantizers,
)
from psaq_mm.quantization.transforms.rotation import LARGEST, block_size, hadamard, rotated, rotated_back

# float32: sums of up to 128 products.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("size", [1, 2, 8, LARGEST])
def test_the_matrix_is_orthogonal_with_entries_of_one_size(size):
    matrix = hadamard(size).double()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix.abs(), torch.full((size, size), size**-0.5, dtype=torch.float64))


@pytest.mark.parametrize(("channels", "block"), [(1, 1), (7, 1), (12, 4), (192, 64), (384, 128), (1536, LARGEST)])
def test_the_block_divides_the_channels(channels, block):
    assert block_size(channels) == block


def test_the_example_of_the_docstring():
    assert rotated(torch.tensor([8.0, 0, 0, 0]), 0).tolist() == [4, 4, 4, 4]


@given(shape=st.lists(st.integers(1, 12), min_size=1, max_size=4), data=st.data())
@settings(deadline=None, max_examples=60)
def test_turning_back_gives_the_values_and_products_stay(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    assert rotated(x, axis).shape == x.shape and rotated(x, axis).dtype == x.dtype
    close = {"rtol": 1e-6, "atol": 1e-6}  # the matrix is float32
    torch.testing.assert_close(rotated_back(rotated(x, axis), axis), x, **close)
    torch.testing.assert_close((rotated(x, axis) * rotated(y, axis)).sum(axis), (x * y).sum(axis), **close)


def outliers(channels: int = 64, seed: int = 0) -> Tensor:
    """Tokens of which two channels are 30 times larger than the others."""
    x = torch.randn(4, 50, channels, generator=torch.Generator().manual_seed(seed))
    x[..., [3, 40]] *= 30
    return x


def layer(rotation: str, **policy) -> QuantLinear:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16))
    options = {"weight_bits": 8, "activation_bits": 4, **policy}
    return quantize_model(model, QuantPolicy(rotation=rotation, **options))[0]


def calibrated(module: nn.Module, x: Tensor) -> nn.Module:
    with calibrating(module), torch.no_grad():
        module(x)
    return module


@pytest.mark.parametrize("norm_inputs", ["per_tensor", "per_channel"])
def test_switched_off_a_rotated_layer_computes_the_float_layer(norm_inputs):
    x = outliers()
    module = layer("hadamard")
    reference = nn.functional.linear(x, module.weight, module.bias)
    if norm_inputs == "per_channel":
        spec = QuantPolicy(rotation="hadamard", norm_inputs=norm_inputs).specs("x").norm_input
        module = QuantLinear.from_module(module, None, spec, name="x")
    calibrated(module, x)
    for _, quantizer in quantizers(module):
        quantizer.enabled = False
    torch.testing.assert_close(module(x), reference, **CLOSE)


def test_folded_input_and_weight_have_the_layers_product():
    x = outliers()
    module = calibrated(layer("hadamard"), x)
    expected = module(x) - module.bias
    weight = module.weight_quantizer(module.folded_weight())
    torch.testing.assert_close(module.folded_input(x) @ weight.T, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(module.unfolded_weight(module.folded_weight()), module.weight, **CLOSE)


def test_channels_with_large_values_cost_the_others_less():
    x = outliers()
    errors = {}
    for rotation in ("none", "hadamard"):
        module = calibrated(layer(rotation), x)
        errors[rotation] = float((module(x) - nn.functional.linear(x, module.weight, module.bias)).square().mean())
    assert errors["hadamard"] < 0.5 * errors["none"]


def test_gptq_rounds_the_rotated_weight():
    x = outliers()
    module = calibrated(layer("hadamard", weight_bits=4, activation_bits=8), x)
    reference = nn.functional.linear(x, module.weight, module.bias)
    nearest = float((module(x) - reference).square().mean())
    rounding = make_rounding("gptq")
    with rounding.collect(module), torch.no_grad():
        module(x)
    (hessian,) = rounding.hessians.values()
    scale = module.weight_quantizer.scale.detach()
    expected = gptq(module.folded_weight(), scale, hessian, 7) * scale.view(-1, 1)
    rounding.apply(module)
    torch.testing.assert_close(module.folded_weight(), expected, **CLOSE)
    assert float((module(x) - reference).square().mean()) < nearest


def test_gradients_pass_through_the_rotation():
    module = calibrated(layer("hadamard", activation_bits=8), outliers())
    x = outliers(seed=1).requires_grad_()
    module(x).square().sum().backward()
    exact = torch.autograd.grad(nn.functional.linear(x, module.weight, module.bias).square().sum(), x)[0]
    cosine = nn.functional.cosine_similarity(x.grad.flatten(), exact.flatten(), dim=0)
    assert cosine > 0.99


@pytest.mark.parametrize(("ours", "theirs"), [("none", "hadamard"), ("hadamard", "none")])
def test_a_checkpoint_of_the_other_form_is_refused(ours, theirs):
    state = copy.deepcopy(calibrated(layer(theirs), outliers()).state_dict())
    message = "has no rotation, the model has one" if ours == "hadamard" else "has a rotation, the model has none"
    with pytest.raises(QuantizationError, match=message):
        layer(ours).load_state_dict(state, strict=False)


def test_a_checkpoint_is_loaded():
    module = calibrated(layer("hadamard"), outliers())
    again = layer("hadamard")
    assert not any(again.load_state_dict(module.state_dict()))
    assert torch.equal(again(outliers(seed=1)), module(outliers(seed=1)))


def test_a_policy_rotates_by_module():
    policy = QuantPolicy(rotation="hadamard", overrides=[{"pattern": "a", "rotation": "none"}])
    assert [policy.specs(name).rotated().rotation_axis for name in ("a.x", "b.x")] == [None, -1]
    assert policy.specs("b").norm_input.rotation_axis == -1 and policy.specs("b").activation.rotation_axis is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: QuantPolicy(rotation="x"), "rotation='x' is unknown: use one of", id="unknown"),
        pytest.param(
            lambda: QuantPolicy(rotation="hadamard", scheme="paper"), "needs scheme='deploy'", id="scheme-paper"
        ),
        pytest.param(lambda: QuantSpec(grid="log2", rotation_axis=-1), "use rotation_axis=None", id="log2"),
    ],
)
def test_what_cannot_be_rotated(make, message):
    with pytest.raises(QuantizationError, match=message):
        make()


def test_the_default_spec_has_no_rotation():
    assert activation_spec(4).rotation_axis is None
