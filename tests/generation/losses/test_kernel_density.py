from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psaq_mm.generation.losses import pairs
from psaq_mm.generation.losses.kernel_density import Nodes, kernel_entropy
from psaq_mm.generation.losses.similarity import unit_tokens
from psaq_mm.generation.tokens import pair_mask
from tests.generation.losses.reference import relative_error

TINY = torch.finfo(torch.float64).tiny
REGIONS = torch.tensor([[0, 0, 1, 1, -1, 0], [2, 2, 2, 2, 2, 2]])


def draw(batch: int, count: int, groups: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return unit_tokens(torch.randn(batch, groups, count, 3, generator=generator, dtype=torch.float64))


def by_definition(
    units: torch.Tensor, regions: torch.Tensor | None, grid: torch.Tensor | int, bandwidth: float, offset: float
) -> torch.Tensor:
    """The entropies with a kernel value for every similarity and point."""
    mask = pair_mask(units.shape[2], regions, units.device).expand(units.shape[1], -1, -1)
    matrix = units @ units.mT
    samples = matrix.flatten(1) if isinstance(grid, int) else matrix[:, mask]
    if isinstance(grid, int):
        low, high = samples.detach().aminmax()
        grid = low + (high - low) * torch.linspace(0, 1, grid, dtype=units.dtype)
    z = (grid.view(1, -1, 1) - samples.unsqueeze(1)) / bandwidth
    density = torch.exp(-z.square() / 2).mean(2) / (bandwidth * math.sqrt(2 * math.pi))
    return -torch.trapezoid(density * torch.log(density + offset), grid, dim=1)


def test_one_pair_has_the_entropy_of_its_kernel() -> None:
    units = torch.eye(2, dtype=torch.float64).view(1, 1, 2, 2)
    entropy = kernel_entropy(units, None, torch.linspace(-9, 9, 1801, dtype=torch.float64), 1.0, TINY)
    assert entropy.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-8)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(3, 9),
    st.sampled_from([0.01, 1 / 32, 0.3]),
    st.sampled_from(["pairs", "regions", "v1"]),
    st.integers(0, 10**6),
)
def test_value_and_gradient_are_those_of_the_definition(
    batch: int, groups: int, count: int, bandwidth: float, kind: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, groups, count, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    units = unit_tokens(tokens)
    regions = torch.randint(-1, 2, (groups, count), generator=generator) if kind == "regions" else None
    if regions is not None:
        regions[0, :2] = 0  # a pair at least
    points = round(2 / bandwidth) + 1
    grid = 10 if kind == "v1" else torch.linspace(-1, 1, points, dtype=torch.float64)
    offset = 1e-4 if kind == "v1" else TINY
    results = [find(units, regions, grid, bandwidth, offset) for find in (kernel_entropy, by_definition)]
    weights = torch.randn(batch, generator=generator, dtype=torch.float64)
    slopes = [torch.autograd.grad((weights * one).sum(), tokens, retain_graph=True)[0] for one in results]
    # Taylor's formula leaves 7e-6 of a kernel's height; where its logarithm is taken far out in the tails, ten times
    # that of the sum.
    assert (results[0] - results[1]).abs().max() < 1e-4 * (1 + results[1].abs().max())
    assert relative_error(*slopes) < 1e-3


def test_nodes_are_as_near_as_the_docstring_says() -> None:
    """Of a single similarity anywhere between two nodes: 7e-6 of the kernel's height, 1 here."""
    h, grid = 0.01, torch.linspace(-0.3, 0.3, 61, dtype=torch.float64)
    values = torch.linspace(0, h, 200, dtype=torch.float64).unsqueeze(1)  # one a row
    nodes = Nodes(h, values)
    sums = nodes.zeros()
    nodes.add(sums, values)
    found = sum(moment @ kernel.mT for moment, kernel in zip(sums, nodes.kernels(grid, 0), strict=True))
    error = (found - torch.exp(-((grid - values) / h).square() / 2)).abs().max()
    assert 1e-6 < error < 7e-6


@pytest.mark.parametrize("block", [1, 17, 10**7], ids=["rows", "some", "all"])
@pytest.mark.parametrize(
    ("regions", "points"), [(None, None), (REGIONS, None), (None, 10)], ids=["windows", "regions", "v1"]
)
def test_blocks_do_not_change_the_result(
    block: int, regions: torch.Tensor | None, points: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = draw(2, 6, groups=2).requires_grad_()
    grid = points or torch.linspace(-1, 1, 9, dtype=torch.float64)
    find = partial(kernel_entropy, units, regions, grid, 0.25, 1e-4)
    expected = find()
    (slope,) = torch.autograd.grad(expected.sum(), units)
    monkeypatch.setattr(pairs, "BLOCK", block)
    entropy = find()
    torch.testing.assert_close(entropy, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(entropy.sum(), units)[0], slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")], ids=str)
def test_tokens_that_are_not_finite_stay_so(wrong: float) -> None:
    tokens = torch.ones(2, 1, 4, 3)
    tokens[1, 0, 2, 1] = wrong
    entropy = kernel_entropy(unit_tokens(tokens), None, torch.linspace(-1, 1, 65), 1 / 32, 1e-4)
    assert entropy.isfinite().tolist() == [True, False]


def test_autograd_keeps_nothing_of_the_pairs() -> None:
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    units = draw(2, 50).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kernel_entropy(units, None, torch.linspace(-1, 1, 65, dtype=torch.float64), 1 / 32, TINY)
    # the tokens, the grid and the densities
    assert sum(kept) == 2 * 50 * 3 + 65 + 2 * 65


def test_similarities_far_from_the_grid_give_finite_values_and_gradients() -> None:
    angle = torch.tensor([0.0, 0.001, 0.002])
    units = torch.stack([angle.cos(), angle.sin()], -1).view(1, 1, 3, 2).requires_grad_()
    entropy = kernel_entropy(units, None, torch.linspace(-1, 0.5, 65), 1 / 64, torch.finfo(torch.float32).tiny)
    (gradient,) = torch.autograd.grad(entropy.sum(), units)
    assert entropy.isfinite().all() and gradient.isfinite().all()


def test_second_derivatives_are_refused() -> None:
    units = draw(1, 4).requires_grad_()
    entropy = kernel_entropy(units, None, torch.linspace(-1, 1, 9, dtype=torch.float64), 0.25, TINY)
    (gradient,) = torch.autograd.grad(entropy.square().sum(), units, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
