"""Ranges moved from keys to queries, keys without their mean: the same function, and finer steps for large channels."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, multiprocessing, nn

from psaq_mm.quantization import (
    QuantizationError,
    QuantMatMul,
    QuantPolicy,
    activation_spec,
    calibrating,
    channel_ratio,
    equalizing,
    quantizers,
)

HEADS, TOKENS, CHANNELS = 2, 40, 8
LAYOUTS = pytest.mark.parametrize(
    ("shape", "expected"),
    [
        pytest.param((3, HEADS, TOKENS, CHANNELS), (HEADS, CHANNELS), id="heads"),
        pytest.param((6, TOKENS, CHANNELS), (CHANNELS,), id="heads-in-the-batch"),
    ],
)


def operands(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Queries, and transposed keys of which one channel is 30 times larger than the others, with small queries."""
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    k[..., 3] *= 30
    q[..., 3] /= 10
    return q, k.mT


def product(migration: float, bits: int = 4, centered: bool = False) -> QuantMatMul:
    spec = activation_spec(bits)
    return QuantMatMul(spec, spec, name="qk", migration=migration, centered=centered)


def equalized(module: QuantMatMul, *batches: tuple[Tensor, Tensor]) -> QuantMatMul:
    for context in (equalizing, calibrating):
        with context(module), torch.no_grad():
            for q, k in batches:
                module(q, k)
    return module


def test_the_example_of_the_docstring():
    ratio = channel_ratio(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 16.0]), 0.5)
    assert ratio.tolist() == [1, 4]
    assert channel_ratio(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 0.0]), 0.5).tolist() == [1, 1]


@given(
    ranges=st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)), min_size=1, max_size=8),
    migration=st.floats(0, 1),
)
@settings(deadline=None, max_examples=50)
def test_ranges_move_between_both_operands_and_their_product_stays(ranges, migration):
    q, k = (torch.tensor(one, dtype=torch.float64) for one in zip(*ranges, strict=True))
    ratio = channel_ratio(q, k, migration)
    torch.testing.assert_close((q * ratio) * (k / ratio), q * k)
    # at 0 the ranges are q and k, at 1 they are exchanged
    torch.testing.assert_close(q * ratio, q ** (1 - migration) * k**migration)


@LAYOUTS
def test_the_product_stays_the_same(shape, expected):
    q, k = operands(shape)
    module = equalized(product(0.5), (q, k))
    assert module.ratio is not None and tuple(module.ratio.shape) == expected
    for _, quantizer in quantizers(module):
        assert quantizer.enabled
        quantizer.enabled = False
    # float32: a factor and its inverse
    torch.testing.assert_close(module(q, k), q @ k, rtol=1e-4, atol=1e-4)


@LAYOUTS
def test_keys_with_a_large_channel_are_finer(shape, expected):
    q, k = operands(shape)
    errors = []
    for migration in (0.0, 0.5):
        module = equalized(product(migration), (q, k))
        errors.append(float((module(q, k) - q @ k).square().mean()))
    assert errors[1] < 0.5 * errors[0]


@LAYOUTS
@pytest.mark.parametrize("migration", [0.0, 0.5])
def test_without_their_mean_keys_have_the_same_softmax_and_finer_steps(shape, expected, migration):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator).mT
    k = k + 20 * torch.randn(CHANNELS, 1, generator=generator)
    exact = (q @ k).softmax(-1)
    errors = []
    for centered in (False, True):
        module = equalized(product(migration, bits=6, centered=centered), (q, k))
        errors.append(float((module(q, k).softmax(-1) - exact).abs().mean()))
    assert tuple(module.center.shape) == expected
    batch = k if k.dim() == 3 else k.transpose(0, 1)
    mean = batch.mean((0, -1)) if k.dim() == 3 else batch.mean((1, -1))
    torch.testing.assert_close(module.center, mean, rtol=1e-4, atol=1e-4)
    for _, quantizer in quantizers(module):
        quantizer.enabled = False
    # float32: scores of several hundred
    torch.testing.assert_close(module(q, k).softmax(-1), exact, rtol=1e-2, atol=1e-4)
    assert errors[1] < 0.7 * errors[0]


def test_without_migration_nothing_is_measured_or_stored():
    module = equalized(product(0.0), operands((3, HEADS, TOKENS, CHANNELS)))
    assert module.ratio is None and "ratio" not in module.state_dict()


def test_a_checkpoint_brings_its_ratio_and_a_float_one_leaves_it():
    batch = operands((3, HEADS, TOKENS, CHANNELS))
    module = equalized(product(0.5), batch)
    again = product(0.5)
    assert again.state_dict().keys() == module.state_dict().keys()
    assert not again.load_state_dict(copy.deepcopy(module.state_dict())).missing_keys
    assert torch.equal(again(*batch), module(*batch))
    # what a float checkpoint has of a product
    assert not again.load_state_dict({}, strict=False).unexpected_keys
    assert torch.equal(again.ratio, module.ratio)


def test_a_pass_that_fails_leaves_no_ratio_and_quantizers_on():
    module = product(0.5)
    with pytest.raises(RuntimeError, match="stopped"), equalizing(module):
        module(*operands((3, HEADS, TOKENS, CHANNELS)))
        raise RuntimeError("stopped")
    assert module.ratio.tolist() == [1] and all(quantizer.enabled for _, quantizer in quantizers(module))


def test_a_policy_gives_the_strength_by_module():
    policy = QuantPolicy(qk_migration=0.5, overrides=[{"pattern": "a", "qk_migration": 0.0}])
    assert [policy.specs(name).qk_migration for name in ("a.qk", "b.qk")] == [0.0, 0.5]
    with pytest.raises(QuantizationError, match="qk_migration=2 is not valid: use a strength from 0 to 1"):
        QuantPolicy(qk_migration=2)


def half(rank: int, folder: str) -> None:
    """One of two processes, each with one of two batches; the second product is reached in the first one alone."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = nn.ModuleList([product(0.5, centered=True), product(0.5)])
    batch = operands((3, HEADS, TOKENS, CHANNELS), seed=rank)
    with equalizing(model, across_processes=True), torch.no_grad():
        model[0](*batch)
        if rank == 0:
            model[1](*batch)
    torch.save([model[0].ratio, model[1].ratio, model[0].center], Path(folder, f"{rank}.pth"))
    distributed.destroy_process_group()


def test_processes_share_their_ratios(tmp_path):
    multiprocessing.spawn(half, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    both = equalized(
        product(0.5, centered=True), *(operands((3, HEADS, TOKENS, CHANNELS), seed=rank) for rank in (0, 1))
    )
    assert torch.equal(first[0], second[0])
    # float32: a mean in another order
    torch.testing.assert_close(first[0], both.ratio, rtol=1e-5, atol=0)
    assert torch.equal(first[2], second[2])
    torch.testing.assert_close(first[2], both.center, rtol=1e-5, atol=1e-6)
    assert first[1].tolist() == second[1].tolist() == [1]
