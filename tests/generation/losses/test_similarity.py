from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psaq_mm.generation.losses.pairs import pair_variance
from psaq_mm.generation.losses.similarity import gram_variance, unit_tokens
from tests.generation.losses.reference import cosine, relative_error


def test_variance_of_the_docstrings_example() -> None:
    units = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])
    assert gram_variance(units).item() == pytest.approx(2 / 9, rel=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 12), st.integers(1, 6), st.integers(0, 10**6))
def test_gram_variance_equals_the_pairwise_one(batch: int, groups: int, count: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, groups, count, width, generator=generator, dtype=torch.float64, requires_grad=True)
    one, other = gram_variance(unit_tokens(tokens)), pair_variance(unit_tokens(tokens))
    # The same algebra in double precision: 1e-12 is a few thousand roundings of numbers of order 1.
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(value.sum(), tokens)[0] for value in (one, other)]
    # Divided by the tokens' lengths, which may be short.
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_gram_variance_survives_alike_tokens_in_float32() -> None:
    # Similarities of 1 - 1e-4: E[g^2] - E[g]^2 would leave no correct digit of a variance of about 1e-9.
    generator = torch.Generator().manual_seed(0)
    tokens = torch.ones(2, 3, 49, 32) + 0.01 * torch.randn(2, 3, 49, 32, generator=generator)
    expected = pair_variance(unit_tokens(tokens.double()))
    # The tokens' own rounding, 6e-8, against deviations of 1e-2 from their mean: 1e-5; 1e-3 leaves room for squares.
    assert relative_error(gram_variance(unit_tokens(tokens)), expected) < 1e-3


def test_products_are_cosines_and_never_of_zero_tokens() -> None:
    tokens = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens[0, 0, 2] = 0
    tokens.requires_grad_()
    units = unit_tokens(tokens)
    matrix = (units @ units.mT)[0, 0]
    torch.testing.assert_close(matrix[0, 1], cosine(tokens[0, 0, 0], tokens[0, 0, 1]))
    assert matrix[2].tolist() == [0, 0, 0]
    (gradient,) = torch.autograd.grad(matrix.sum(), tokens)
    assert gradient.isfinite().all() and gradient[0, 0, 2].tolist() == [0] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    assert unit_tokens(torch.ones(1, 1, 2, 3, dtype=dtype)).dtype == torch.float32
