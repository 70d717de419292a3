"""Batch norms are folded into the layers before them, in the model and in the state dicts that it loads."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from psaq_mm.quantization import QuantPolicy, calibrating, coverage, fold, fold_norms, fold_state, quantize_model
from tests.conftest import random_weights


def with_statistics(model: nn.Module) -> nn.Module:
    """Random weights and statistics, in eval mode."""
    random_weights(model)
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3)
    return model.eval()


PAIRS = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), (2, 3, 8, 8)),
    "conv-bias": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 8, 8)),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (2, 4, 8, 8)),
    "sync": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4, eps=0.1)), (2, 3, 8, 8)),
    "not-affine": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), (2, 3, 8, 8)),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (6, 5)),
    "two": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
        ),
        (2, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_the_folded_model_computes_what_the_model_did(name):
    build, shape = PAIRS[name]
    model, x = with_statistics(build()), torch.randn(shape)
    expected, norms = model(x), sum("Norm" in type(module).__name__ for module in model.modules())
    assert len(fold_norms(model)) == norms
    assert not any("Norm" in type(module).__name__ for module in model.modules())
    # a weight and a bias are rounded to float32 once more
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_state_dicts_of_both_forms_load(name):
    build, shape = PAIRS[name]
    other, x = with_statistics(build()), torch.randn(shape)
    model = build().eval()
    fold_norms(model)
    before = dict(other.state_dict())
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(x), other(x), atol=1e-5, rtol=1e-4)
    assert fold_state(model, before).keys() == model.state_dict().keys() and before.keys() == other.state_dict().keys()
    again = build().eval()
    fold_norms(again)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@torch.no_grad()
def test_a_copy_of_a_folded_model_still_loads_the_float_state(how):
    build, shape = PAIRS["two"]
    model, other, x = build().eval(), with_statistics(build()), torch.randn(shape)
    fold_norms(model)
    copied = how(model)
    copied.load_state_dict(other.state_dict())
    torch.testing.assert_close(copied(x), other(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_model_quantized_before_norms_were_folded_loads():
    build, shape = PAIRS["two"]
    old, x = with_statistics(build()), torch.randn(shape)
    quantize_model(old, QuantPolicy(weight_observer="mse"))
    with calibrating(old):
        old(x)
    model = build().eval()
    fold_norms(model)
    quantize_model(model, QuantPolicy(weight_observer="mse"))
    model.load_state_dict(old.state_dict())
    # Factors of whole output channels change no integer, but values at half a step may round to the other side.
    error, power = (model(x) - old(x)).square().mean(), old(x).square().mean()
    assert error < 1e-5 * power


def shared_convolution() -> nn.Module:
    """As in a head whose levels share convolutions and have norms of their own."""
    conv = nn.Conv2d(3, 3, 1)
    return nn.ModuleList([nn.Sequential(conv, nn.BatchNorm2d(3)), nn.Sequential(conv, nn.BatchNorm2d(3))])


def shared_weight() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    model[2].weight = model[0].weight
    return model


def spectral() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
        lambda: nn.ModuleList([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)]),
        shared_convolution,
        shared_weight,
        spectral,
    ],
    ids=[
        "no-statistics",
        "activation-between",
        "norm-first",
        "group-norm",
        "a-list",
        "shared",
        "tied",
        "spectral-norm",
    ],
)
def test_other_norms_are_left_alone(build):
    model = build()
    before = {name: type(module) for name, module in model.named_modules()}
    assert fold_norms(model) == []
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_only_wanted_layers_get_a_norm_and_names_begin_with_the_prefix():
    model = PAIRS["two"][0]()
    assert fold_norms(model, lambda name: name == "head.0.0", "head") == ["head.0.1"]
    assert isinstance(model[2], nn.BatchNorm2d)


def test_coverage_lists_the_new_bias_and_the_norms_that_are_left():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    fold_norms(model)
    quantize_model(model, QuantPolicy())
    reasons = {row.name: row.reason for row in coverage(model, QuantPolicy()).rows}
    assert reasons == {
        "0.weight": "",
        "0.bias": "biases stay FP",
        "0.input": "",
        "3.weight": "normalisation stays FP",
        "3.bias": "normalisation stays FP",
    }


values = st.floats(-100, 100, width=32)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(values, values, values, values, values, st.floats(2**-20, 1000, width=32)), min_size=1, max_size=5
    ),
    st.sampled_from([1e-5, 1e-3]),
)
def test_fold_is_the_norm_of_the_product(channels, eps):
    weight, bias, gamma, beta, mean, variance = torch.tensor(channels, dtype=torch.float64).T
    norm: dict[str, Tensor | None] = {"running_mean": mean, "running_var": variance, "weight": gamma, "bias": beta}
    new_weight, new_bias = fold(weight[:, None], bias, norm, 0, eps)
    x = torch.tensor([-3.0, 0.0, 0.5], dtype=torch.float64)
    expected = gamma * (x[:, None] * weight + bias - mean) / (variance + eps).sqrt() + beta
    # float64: sums of values of up to 1e7 that cancel
    torch.testing.assert_close(x[:, None] * new_weight[:, 0] + new_bias, expected, atol=1e-6, rtol=1e-9)
