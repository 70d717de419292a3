from __future__ import annotations

import math

import pytest
import torch

from psaq_mm.generation import kernel_density
from psaq_mm.generation.kernel_density import kernel_entropy

from .reference import even, kde_entropy, relative_error, v1_entropy

TINY = torch.finfo(torch.float64).tiny


def draw(batch: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, count, generator=generator, dtype=torch.float64) * 1.6 - 0.8


def test_one_sample_has_the_entropy_of_its_kernel() -> None:
    grid = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    entropy = kernel_entropy(torch.zeros(1, 1, dtype=torch.float64), grid, 1.0, TINY)
    assert entropy.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-8)


@pytest.mark.parametrize("offset", [TINY, 1e-4], ids=["kde", "v1"])
def test_closed_form_backward(offset: float) -> None:
    samples, grid = draw(2, 7).requires_grad_(), torch.linspace(-1, 1, 17, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: kernel_entropy(s, grid, 2 / 16, offset), (samples,))


def test_equals_the_reference() -> None:
    samples, grid = draw(3, 40), even(-1, 1, 65)
    points = torch.tensor(grid, dtype=torch.float64)
    expected = torch.stack([kde_entropy(row, grid, 1 / 32) for row in samples])
    # Both in double precision; only the order of the sums differs.
    assert relative_error(kernel_entropy(samples, points, 1 / 32, TINY), expected) < 1e-12
    expected = torch.stack([v1_entropy(row, grid) for row in samples])
    assert relative_error(kernel_entropy(samples, points, 0.01, 1e-4), expected) < 1e-12


@pytest.mark.parametrize("chunk", [1, 100, 10**7], ids=["one-sample", "some", "all"])
def test_chunks_do_not_change_the_result(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, grid = draw(2, 33).requires_grad_(), torch.linspace(-1, 1, 9, dtype=torch.float64)
    expected = kernel_entropy(samples, grid, 0.25, TINY)
    (slope,) = torch.autograd.grad(expected.sum(), samples)
    monkeypatch.setattr(kernel_density, "CHUNK", chunk)
    entropy = kernel_entropy(samples, grid, 0.25, TINY)
    torch.testing.assert_close(entropy, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(entropy.sum(), samples)[0], slope, rtol=1e-10, atol=1e-14)


def test_autograd_keeps_nothing_of_size_samples_times_points() -> None:
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    samples = draw(2, 1000).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kernel_entropy(samples, torch.linspace(-1, 1, 65, dtype=torch.float64), 1 / 32, TINY)
    assert sum(kept) == 2 * 1000 + 65 + 2 * 65


def test_far_samples_give_finite_values_and_gradients() -> None:
    samples = torch.tensor([[0.95, 0.951, 0.952]], requires_grad=True)
    entropy = kernel_entropy(samples, torch.linspace(-1, 1, 65), 1 / 32, torch.finfo(torch.float32).tiny)
    (gradient,) = torch.autograd.grad(entropy.sum(), samples)
    assert entropy.isfinite().all() and gradient.isfinite().all()


def test_second_derivatives_are_refused() -> None:
    samples = draw(1, 4).requires_grad_()
    entropy = kernel_entropy(samples, torch.linspace(-1, 1, 9, dtype=torch.float64), 0.25, TINY)
    (gradient,) = torch.autograd.grad(entropy.square().sum(), samples, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
