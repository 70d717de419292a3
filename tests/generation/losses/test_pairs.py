from __future__ import annotations

import pytest
import torch

from psaq_mm.generation.losses import pairs
from psaq_mm.generation.losses.pairs import pair_blocks, pair_variance
from psaq_mm.generation.losses.similarity import unit_tokens
from psaq_mm.generation.tokens import pair_mask

REGIONS = torch.tensor([[0, 0, 1, 1, -1], [2, 2, 2, 2, 2], [0, 1, 2, 3, -1]])


def draw(batch: int, groups: int, count: int, width: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(groups)
    return unit_tokens(torch.randn(batch, groups, count, width, generator=generator, dtype=torch.float64))


def upper(units: torch.Tensor, regions: torch.Tensor | None = None) -> torch.Tensor:
    """All comparable pairs of every image by definition: ``(batch, M)``."""
    mask = pair_mask(units.shape[2], regions, units.device).expand(units.shape[1], -1, -1)
    return (units @ units.mT)[:, mask]


@pytest.mark.parametrize("block", [1, 17, 60, 10**6], ids=["rows", "some-rows", "groups", "all"])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["windows", "regions"])
def test_blocks_hold_every_pair_once(block: int, regions: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK", block)
    units = draw(2, 3, 5)
    found = torch.cat([one.similarities(units) for one in pair_blocks(units, regions)], 1)
    torch.testing.assert_close(found.sort(1).values, upper(units, regions).sort(1).values, rtol=1e-12, atol=1e-14)


def test_blocks_left_of_the_diagonal_are_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    units = draw(1, 1, 100)
    monkeypatch.setattr(pairs, "BLOCK", 1000)  # ten rows of 100
    products = sum((b.sides(units)[0].shape[2]) * (b.sides(units)[1].shape[2]) for b in pair_blocks(units))
    assert products == sum(10 * columns for columns in range(100, 0, -10))


@pytest.mark.parametrize("block", [1, 60, 10**6], ids=["rows", "groups", "all"])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["windows", "regions"])
def test_variance_and_its_gradient(block: int, regions: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK", block)
    units = draw(2, 3, 5).requires_grad_()
    found, expected = pair_variance(units, regions), upper(units, regions).var(1, correction=0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    # Not a sum, so that every image's gradient is told from the others'.
    slopes = [torch.autograd.grad((value * torch.tensor([1.0, 3.0])).sum(), units)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-14)


def test_autograd_keeps_nothing_of_the_pairs() -> None:
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    units = draw(2, 1, 40).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pair_variance(units)
    assert sum(kept) == units.numel() + 2
