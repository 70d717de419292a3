from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from psaq_mm.generation import kernel_density, pairs
from psaq_mm.generation.kernel_density import kernel_entropy
from psaq_mm.generation.similarity import unit_tokens

from .reference import even, kde_entropy, relative_error, v1_entropy

TINY = torch.finfo(torch.float64).tiny
REGIONS = torch.tensor([[0, 0, 1, 1, -1, 0], [2, 2, 2, 2, 2, 2]])


def draw(batch: int, count: int, groups: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return unit_tokens(torch.randn(batch, groups, count, 3, generator=generator, dtype=torch.float64))


def upper(units: torch.Tensor) -> torch.Tensor:
    """The similarities of all pairs of one group: ``(batch, M)``."""
    row, column = torch.triu_indices(units.shape[2], units.shape[2], offset=1)
    return (units @ units.mT)[:, 0, row, column]


def test_one_pair_has_the_entropy_of_its_kernel() -> None:
    units = torch.eye(2, dtype=torch.float64).view(1, 1, 2, 2)
    entropy = kernel_entropy(units, None, torch.linspace(-9, 9, 1801, dtype=torch.float64), 1.0, TINY)
    assert entropy.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-8)


@pytest.mark.parametrize(
    ("regions", "full"), [(None, False), (REGIONS, False), (None, True)], ids=["pairs", "regions", "full"]
)
@pytest.mark.parametrize("offset", [TINY, 1e-4], ids=["kde", "v1"])
def test_closed_form_backward(regions: torch.Tensor | None, full: bool, offset: float) -> None:
    tokens, grid = draw(2, 6, groups=2).requires_grad_(), torch.linspace(-1, 1, 17, dtype=torch.float64)

    def entropy(tokens: torch.Tensor) -> torch.Tensor:
        return kernel_entropy(unit_tokens(tokens), regions, grid, 2 / 16, offset, full)

    assert torch.autograd.gradcheck(entropy, (tokens,))


def test_equals_the_reference() -> None:
    units, grid = draw(3, 9), even(-1, 1, 65)
    points = torch.tensor(grid, dtype=torch.float64)
    expected = torch.stack([kde_entropy(row, grid, 1 / 32) for row in upper(units)])
    # Both in double precision; only the order of the sums differs.
    assert relative_error(kernel_entropy(units, None, points, 1 / 32, TINY), expected) < 1e-12
    expected = torch.stack([v1_entropy(row.flatten(), grid) for row in units @ units.mT])
    assert relative_error(kernel_entropy(units, None, points, 0.01, 1e-4, full=True), expected) < 1e-12


@pytest.mark.parametrize("chunk", [1, 100, 10**7], ids=["one", "some", "all"])
@pytest.mark.parametrize("module", [kernel_density, pairs], ids=["kernels", "similarities"])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["windows", "regions"])
def test_chunks_do_not_change_the_result(
    module: object, chunk: int, regions: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, grid = draw(2, 6, groups=2).requires_grad_(), torch.linspace(-1, 1, 9, dtype=torch.float64)
    find = partial(kernel_entropy, units, regions, grid, 0.25, TINY)
    expected = find()
    (slope,) = torch.autograd.grad(expected.sum(), units)
    monkeypatch.setattr(module, "CHUNK" if module is kernel_density else "BLOCK", chunk)
    entropy = find()
    torch.testing.assert_close(entropy, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(entropy.sum(), units)[0], slope, rtol=1e-10, atol=1e-14)


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
