"""The arithmetic, against torch's own operators and a double-precision formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from psaq_mm.quantization import (
    QuantSpec,
    activation_spec,
    affine_parameters,
    fake_quantize,
    functional,
    sqnr,
    weight_spec,
)

BITS = pytest.mark.parametrize("bits", range(2, 9), ids=lambda bits: f"{bits}bit")
PER_TOKEN_CHANNEL = QuantSpec(4, granularity="per_channel", axis=-1)
FINITE = st.floats(-1e4, 1e4, width=32)


def reference(x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, and derivatives with respect to x, scale and zero point, element by element in double precision."""
    x, scale, zero = x.double(), scale.double(), zero_point.double().round()
    if spec.per_channel:
        shape = [1] * x.dim()
        shape[spec.axis] = -1
        scale, zero = scale.view(shape), zero.view(shape)
    raw = (x / scale).round() + zero
    q = raw.clamp(spec.quant_min, spec.quant_max)
    inside = (raw == q).double()
    d_scale = q - zero - inside * x / scale
    return (q - zero) * scale, inside, d_scale, -(1 - inside) * scale


def assert_close(actual: Tensor, expected: Tensor, terms: int) -> None:
    """float32 against float64: relative 1e-5, absolute the rounding of a sum of ``terms`` values of a few hundred."""
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=2e-5 * max(terms, 1))


@BITS
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2)], ids=["linear", "conv"])
def test_weights_equal_torch_exactly(bits: int, shape: tuple[int, ...]) -> None:
    spec, x = weight_spec(bits), torch.randn(shape)
    largest = x.abs().flatten(1).amax(1)
    scale, zero_point = affine_parameters(-largest, largest, spec)
    expected = torch.fake_quantize_per_channel_affine(
        x,
        largest / spec.quant_max,
        torch.zeros(shape[0], dtype=torch.int32),
        0,
        -(2 ** (bits - 1)) + 1,
        2 ** (bits - 1) - 1,
    )
    assert torch.equal(fake_quantize(x, scale, zero_point, spec), expected)


@BITS
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_activations_equal_torch(bits: int, learned: bool) -> None:
    """Fixed: the same formula, so exactly. Learned: another order of rounding, so ties may fall one step apart."""
    spec, x = activation_spec(bits), torch.randn(20000)
    scale, zero_point = affine_parameters(x.min()[None] * 0.7, x.max()[None] * 0.7, spec)
    expected = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), 0, 2**bits - 1)
    actual = fake_quantize(x, scale.requires_grad_(learned), zero_point, spec).detach()
    steps = (actual - expected).abs() / scale.detach()
    assert (steps < 0.01).double().mean() >= (0.999 if learned else 1.0)
    assert steps.max() < 1.01


@BITS
@pytest.mark.parametrize("axis", [None, 0, -1], ids=["per_tensor", "axis0", "axis-1"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_fixed_equals_torch_exactly_with_its_gradient(bits: int, axis: int | None, symmetric: bool) -> None:
    """On CPUs the formula stands in passes of its own: values, ties (of 1.5 steps) and gradients are torch's."""
    granularity = "per_tensor" if axis is None else "per_channel"
    spec = QuantSpec(bits, symmetric=symmetric, granularity=granularity, axis=axis or 0)
    channels = 1 if axis is None else (6, 5, 4)[axis]
    scale = 3.0 / 2**bits * (1 + torch.rand(channels))
    zero_point = torch.zeros(channels) if symmetric else torch.randint(0, 2**bits, (channels,)).float()
    x = torch.randn(6, 5, 4)
    x[0, 0] = 1.5 * scale[0]
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    zero, low, high = zero_point.int(), spec.quant_min, spec.quant_max
    if axis is None:
        expected = torch.fake_quantize_per_tensor_affine(leaves[0], scale, zero, low, high)
    else:
        expected = torch.fake_quantize_per_channel_affine(leaves[0], scale, zero, axis % 3, low, high)
    actual, outer = fake_quantize(leaves[1], scale, zero_point, spec), torch.randn(x.shape)
    with torch.no_grad():
        assert torch.equal(fake_quantize(x, scale, zero_point, spec), actual)
    assert torch.equal(actual, expected)
    for y in (actual, expected):
        y.backward(outer)
    assert torch.equal(leaves[1].grad, leaves[0].grad)
    assert 0 < (leaves[0].grad == 0).double().mean() < 1, "the test should see values inside and outside"


@BITS
@pytest.mark.parametrize("kernel", ["torch", "formula"])
@pytest.mark.parametrize("axis", [None, 0, -1], ids=["per_tensor", "axis0", "axis-1"])
def test_gradients(bits: int, kernel: str, axis: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "formula":
        monkeypatch.setattr(functional, "_LEARNABLE_PER_TENSOR", None)
        monkeypatch.setattr(functional, "_LEARNABLE_PER_CHANNEL", None)
    spec = QuantSpec(bits, granularity="per_tensor" if axis is None else "per_channel", axis=axis or 0)
    x, outer = torch.randn(6, 5, 4), torch.randn(6, 5, 4)
    channels = 1 if axis is None else x.shape[axis]
    # Narrower than the values, so that both sides clip; the zero point's fraction is not a half.
    scale = 3.0 / 2**bits * (1 + torch.rand(channels))
    zero_point = torch.full((channels,), 2 ** (bits - 1) - 0.3)
    leaves = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
    y = fake_quantize(*leaves, spec)
    y.backward(outer)

    value, d_x, d_scale, d_zero = reference(x, scale, zero_point, spec)
    dims = tuple(dim for dim in range(3) if axis is None or dim != axis % 3)
    assert_close(y, value, 1)
    assert_close(leaves[0].grad, d_x * outer, 1)
    assert 0 < d_x.mean() < 1, "the test should see values inside and outside"
    # About 120 terms of magnitude up to quant_max each.
    assert_close(leaves[1].grad, (d_scale * outer).sum(dims).view(channels), 120)
    assert_close(leaves[2].grad, (d_zero * outer).sum(dims).view(channels), 120)


@pytest.mark.parametrize(
    "x, dx, dscale, dzero", [(1.2, 1.0, -0.4, 0.0), (9.0, 0.0, 2.0, -0.5)], ids=["inside", "outside"]
)
def test_example_of_the_docstring(x: float, dx: float, dscale: float, dzero: float) -> None:
    leaves = [torch.tensor([v], requires_grad=True) for v in (x, 0.5, 1.0)]
    y = fake_quantize(*leaves, activation_spec(2))
    y.sum().backward()
    assert y.item() == 1.0
    assert [leaf.grad.item() for leaf in leaves] == pytest.approx([dx, dscale, dzero], abs=1e-6)


@pytest.mark.parametrize("value", [-3.0, 0.0], ids=["negative", "zero"])
def test_a_scale_that_fell_to_zero_still_gets_its_gradient(value: float) -> None:
    scale = torch.tensor([value], requires_grad=True)
    y = fake_quantize(torch.tensor([1.0, 2.0]), scale, torch.zeros(1), activation_spec(8))
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert scale.grad.item() == 510.0  # both values lie outside: q - z = 255 each


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_keeps_the_type(dtype: torch.dtype) -> None:
    y = fake_quantize(torch.randn(8).to(dtype), torch.ones(1), torch.zeros(1), activation_spec(8))
    assert y.dtype == dtype


@settings(max_examples=150, deadline=None)
@given(
    low=FINITE,
    width=st.floats(0, 1e4, width=32),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    data=st.lists(FINITE, min_size=1, max_size=8),
)
def test_properties(low: float, width: float, bits: int, symmetric: bool, data: list[float]) -> None:
    spec = QuantSpec(bits, symmetric=symmetric, narrow_range=symmetric)
    minimum, maximum = torch.tensor([low]), torch.tensor([low + width])
    scale, zero_point = affine_parameters(minimum, maximum, spec)
    assert scale >= torch.finfo(torch.float32).tiny
    assert zero_point == zero_point.round()
    assert spec.quant_min <= zero_point <= spec.quant_max

    def run(x: Tensor) -> Tensor:
        return fake_quantize(x, scale, zero_point, spec)

    assert run(torch.zeros(1)) == 0
    x = torch.tensor(data)
    y = run(x)
    # Values on the grid stay: half a step can't be reached by float32's rounding of q * scale.
    assert torch.equal(run(y), y)
    assert torch.unique(y).numel() <= 2**bits
    ordered = run(x.sort().values)
    assert torch.equal(ordered, ordered.sort().values)
    # Inside the range the error is half a step, one more half at an end when the zero point rounds.
    inside = x.clamp(min(low, 0.0), max(low + width, 0.0))
    assert ((run(inside) - inside).abs() <= scale * 1.001).all()


def test_affine_examples() -> None:
    low, high = torch.tensor([-1.0]), torch.tensor([3.0])
    scale, zero_point = affine_parameters(low, high, activation_spec(2))
    assert (scale.item(), zero_point.item()) == (pytest.approx(4 / 3), 1)
    scale, zero_point = affine_parameters(low, high, weight_spec(2))
    assert (scale.item(), zero_point.item()) == (3, 0)


def test_degenerate_range() -> None:
    scale, zero_point = affine_parameters(torch.zeros(1), torch.zeros(1), PER_TOKEN_CHANNEL)
    assert scale.item() == torch.finfo(torch.float32).eps
    assert zero_point.item() == 0


def test_sqnr() -> None:
    assert sqnr(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20.0)
    assert sqnr(torch.ones(3), torch.ones(3)) == 200.0
    assert sqnr(torch.zeros(3), torch.zeros(3)) == 200.0
    assert sqnr(torch.zeros(3), torch.ones(3)) == -200.0


def test_sqnr_follows_the_bits() -> None:
    """Uniform noise on [-1, 1]: signal 1/3, error step^2/12, so 20 log10(steps) dB, 6 dB a bit (0.5 dB of sampling)."""
    x = torch.rand(20000) * 2 - 1
    for bits in range(2, 9):
        spec = activation_spec(bits)
        y = fake_quantize(x, *affine_parameters(x.min()[None], x.max()[None], spec), spec)
        assert sqnr(x, y) == pytest.approx(20 * math.log10(spec.quant_max), abs=0.5)


@pytest.mark.parametrize(
    ("grid", "bits", "x", "y", "dx"),
    [
        ("log2", 2, 0.3, 0.25, 1.0),
        ("log2", 2, 0.1, 0.0, 0.0),
        ("log2", 4, 1.4, 1.0, 1.0),
        ("log2", 4, 2.0**-14, 2.0**-14, 1.0),
        ("log2", 4, 0.0, 0.0, 0.0),
        ("log2", 5, 0.7, 0.5**0.5, 1.0),
        ("log_sqrt2", 4, 0.7, 0.5**0.5, 1.0),
        ("log_sqrt2", 4, 2.0**-7, 2.0**-7, 1.0),
        ("log_sqrt2", 4, 2.0**-8, 0.0, 0.0),
        ("log_sqrt2", 5, 0.85, 0.5**0.25, 1.0),
    ],
    ids=[
        *("docstring", "docstring-zero", "above", "lowest", "zero", "half-octave"),
        *("root", "root-lowest", "root-zero", "quarter-octave"),
    ],
)
def test_logarithmic_examples(grid: str, bits: int, x: float, y: float, dx: float) -> None:
    leaf = torch.tensor([x], requires_grad=True)
    result = fake_quantize(leaf, torch.ones(1), torch.zeros(1), activation_spec(bits, grid=grid))
    result.sum().backward()
    assert (result.item(), leaf.grad.item()) == (pytest.approx(y, rel=1e-6), dx)


@settings(max_examples=100, deadline=None)
@given(
    bits=st.integers(2, 8),
    scale=st.floats(2.0**-10, 1, width=32),
    data=st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=1, max_size=16),
    grid=st.sampled_from(["log2", "log_sqrt2"]),
)
def test_logarithmic_properties(bits: int, scale: float, data: list[float], grid: str) -> None:
    spec = activation_spec(bits, grid=grid)
    x, step = torch.tensor(data), torch.tensor([scale])
    y = fake_quantize(x, step, torch.zeros(1), spec)
    assert torch.equal(fake_quantize(y, step, torch.zeros(1), spec), y)
    assert torch.unique(y).numel() <= 2**bits
    # Rounded in the exponent: off by half a step, sqrt(2) up to 4 bits, but for float32's rounding of the logarithm.
    kept = (y > 0) & (x <= scale)
    half = 2 ** (0.5 / spec.steps_per_octave) * 1.0001
    assert (((x / y)[kept] <= half) & ((y / x)[kept] <= half)).all()
    assert (x[y == 0] <= scale * 2.0 ** ((spec.quant_min + 0.5) / spec.steps_per_octave) * 1.0001).all()


@pytest.mark.parametrize("grid", ["log2", "log_sqrt2"])
def test_the_range_of_a_logarithmic_grid_is_the_maximum(grid: str) -> None:
    scale, zero_point = affine_parameters(torch.tensor([0.1]), torch.tensor([0.7]), activation_spec(4, grid=grid))
    assert (scale.item(), zero_point.item()) == (pytest.approx(0.7), 0)


class TestMigratedRange:
    """Ranges of channels that follow their sizes in part."""

    def test_example_of_the_docstring(self) -> None:
        low, high = functional.migrated_range(torch.tensor([-1.0, -4.0]), torch.tensor([1.0, 4.0]), 0.5)
        # float32 rounding of logarithm and exponential
        torch.testing.assert_close(high, torch.tensor([2.0, 4.0]), rtol=1e-5, atol=0)
        torch.testing.assert_close(low, -high, rtol=0, atol=0)

    @settings(max_examples=60, deadline=None)
    @given(
        ends=st.lists(st.tuples(st.floats(-100, 0, width=32), st.floats(0, 100, width=32)), min_size=1, max_size=8),
        strength=st.floats(0, 1),
    )
    def test_every_channel_fits_and_all_have_one_zero_point(self, ends, strength) -> None:
        minimum, maximum = (torch.tensor(side) for side in zip(*ends, strict=True))
        low, high = functional.migrated_range(minimum, maximum, strength)
        room = 1e-4 * (high - low) + 1e-6
        assert bool((low <= minimum + room).all() and (high >= maximum - room).all())
        # A range below the smallest scale has no zero point to speak of.
        spec = activation_spec(8, granularity="per_channel")
        _, zero_point = affine_parameters(low, high, spec)
        if float((high - low).min()) > 1e-2:
            assert float(zero_point.max() - zero_point.min()) <= 1

    def test_strength_0_is_one_range(self) -> None:
        minimum, maximum = torch.tensor([-1.0, -3.0, 0.0]), torch.tensor([2.0, 1.0, 5.0])
        low, high = functional.migrated_range(minimum, maximum, 0.0)
        assert low.tolist() == [-3.0] * 3 and high.tolist() == [5.0] * 3

    def test_a_silent_channel_and_silence(self) -> None:
        zero = torch.zeros(2)
        low, high = functional.migrated_range(zero, torch.tensor([0.0, 4.0]), 0.5)
        assert low.tolist() == [0, 0] and torch.allclose(high, torch.tensor([4.0, 4.0]))
        assert all(torch.equal(end, zero) for end in functional.migrated_range(zero, zero, 0.5))
