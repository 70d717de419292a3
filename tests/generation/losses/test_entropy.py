from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psaq_mm.generation import AttentionTokens, GenerationError, PatchSimilarityEntropy
from psaq_mm.generation.losses.entropies import ENTROPIES
from psaq_mm.generation.losses.entropies.base import KernelVariant
from tests.generation.losses.reference import layer_entropy, pse_loss, relative_error

# One entry per file of psaq_mm/generation/losses/entropies.
VARIANTS = ["gaussian", "kde", "v1"]
OURS = ["gaussian", "kde"]
REGIONS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1], [0, 0, 1, 1, 0, 0, 1, 1]])
# Float32 rounds similarities by about 1e-7; the entropies' derivatives with h = 0.01 magnify that by at most 1 / h and
# leave 1e-5, the rest is margin.
TOLERANCE = 1e-4


def draw(shape: tuple[int, int, int, int], seed: int) -> torch.Tensor:
    """Tokens with a common part, so that similarities are as uneven as a network's."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator) + 0.5 * torch.randn(shape[-1], generator=generator)
    ).requires_grad_()


def similarity_entropy(layers: list[AttentionTokens], variant: str = "gaussian") -> torch.Tensor:
    return PatchSimilarityEntropy(variant).per_image(layers)


def make_layers(case: str) -> list[AttentionTokens]:
    if case == "global":
        return [AttentionTokens(draw((2, 1, 9, 4), 0)), AttentionTokens(draw((2, 1, 9, 4), 1))]
    if case == "windows":
        return [AttentionTokens(draw((3, 4, 6, 8), 2)), AttentionTokens(draw((3, 2, 9, 3), 3))]
    if case == "class-token":
        return [AttentionTokens(draw((2, 1, 8, 3), 4), has_class_token=True)]
    if case == "regions":
        return [AttentionTokens(draw((2, 2, 8, 5), 5), REGIONS), AttentionTokens(draw((2, 3, 8, 5), 6))]
    return [AttentionTokens(draw((2, 2, 8, 5), 7), REGIONS, has_class_token=True)]


CASES = ["global", "windows", "class-token", "regions", "regions-class-token"]


def test_all_variants_are_tested_here() -> None:
    assert list(ENTROPIES.names) == VARIANTS


def assert_matches_reference(layers: list[AttentionTokens], variant: str) -> None:
    tokens = [layer.tokens for layer in layers]
    loss, expected = PatchSimilarityEntropy(variant)(layers), pse_loss(layers, variant)
    assert loss.dtype == torch.float32 and loss.shape == ()
    # Entropies pass through 0, so the error is measured against 1 nat where they are smaller.
    assert abs(loss.item() - expected.item()) < TOLERANCE * max(1.0, abs(expected.item()))
    gradients = [torch.cat([g.flatten() for g in torch.autograd.grad(one, tokens)]) for one in (loss, expected)]
    assert relative_error(*gradients) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_reference(case: str, variant: str) -> None:
    assert_matches_reference(make_layers(case), variant)


@pytest.mark.parametrize("variant", OURS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(5, 9), st.integers(3, 6), st.integers(0, 10**6), st.booleans())
def test_random_layers_equal_the_reference(
    variant: str, batch: int, groups: int, count: int, width: int, seed: int, split: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randint(-1, 2, (groups, count), generator=generator)
    regions[0, :4] = 0  # six pairs at least: the variance of two near-equal similarities is all rounding
    assert_matches_reference(
        [AttentionTokens(draw((batch, groups, count, width), seed), regions if split else None)], variant
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("alike", [0.0, 3.0], ids=["varied", "alike"])
def test_float32_is_as_good_as_float64_at_a_networks_size(variant: str, alike: float) -> None:
    # The float64 run is held against the reference above; here what counts is rounding among 49 * 48 / 2 pairs.
    single = (draw((2, 4, 49, 32), 12).detach() + alike).requires_grad_()
    double = single.detach().double().requires_grad_()
    losses = [PatchSimilarityEntropy(variant)([AttentionTokens(tokens)]) for tokens in (single, double)]
    assert relative_error(*losses) < TOLERANCE
    gradients = [torch.autograd.grad(loss, t)[0] for loss, t in zip(losses, (single, double), strict=True)]
    assert relative_error(*gradients) < TOLERANCE


def test_gaussian_of_the_docstrings_example() -> None:
    tokens = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])
    expected = 0.5 * math.log(2 * math.pi * math.e * 2 / 9)
    assert similarity_entropy([AttentionTokens(tokens)]).item() == pytest.approx(expected, abs=1e-5)
    assert similarity_entropy([AttentionTokens(torch.ones(1, 1, 3, 2))]).item() == pytest.approx(-5.489, abs=1e-3)


def test_gaussian_gram_path_equals_the_masked_one() -> None:
    tokens = draw((2, 3, 12, 5), 8)
    plain = AttentionTokens(tokens)  # 12 tokens of 5 numbers: the Gram matrix
    masked = AttentionTokens(tokens, torch.zeros(3, 12, dtype=torch.int64))  # the same pairs, N x N
    one, other = similarity_entropy([plain]), similarity_entropy([masked])
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(value.sum(), tokens)[0] for value in (one, other)]
    assert relative_error(*gradients) < 1e-5


@pytest.mark.parametrize("variant", OURS)
def test_padding_tokens_have_no_influence(variant: str) -> None:
    tokens = draw((2, 2, 8, 5), 9).detach()
    changed = tokens.clone()
    changed[:, 0, 7] = 100.0
    one, other = (similarity_entropy([AttentionTokens(t, REGIONS)], variant) for t in (tokens, changed))
    assert torch.equal(one, other)


def test_v1_ignores_regions_and_drops_token_zero() -> None:
    tokens = draw((2, 2, 8, 5), 10).detach()
    changed = tokens.clone()
    changed[:, :, 0] = 7.0
    one = similarity_entropy([AttentionTokens(tokens, REGIONS)], "v1")
    assert torch.equal(one, similarity_entropy([AttentionTokens(changed, has_class_token=True)], "v1"))


@pytest.mark.parametrize("variant", OURS)
def test_micro_batches_leave_every_image_as_it_is(variant: str) -> None:
    tokens = [draw((6, 2, 9, 4), seed).detach() * 0.3 + 0.2 * seed for seed in (1, 2)]
    whole = similarity_entropy([AttentionTokens(t) for t in tokens], variant)
    parts = [similarity_entropy([AttentionTokens(t[i : i + 2]) for t in tokens], variant) for i in (0, 2, 4)]
    # Equal but for the order of float32 sums.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)


def test_micro_batches_change_v1() -> None:
    tokens = draw((6, 2, 9, 4), 1).detach()
    tokens[:2] += 2.0  # alike tokens: a narrow range of similarities of their own
    whole = similarity_entropy([AttentionTokens(tokens)], "v1")
    part = similarity_entropy([AttentionTokens(tokens[:2])], "v1")
    assert (whole[:2] - part).abs().max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_reduction_over_layers_and_images(variant: str) -> None:
    layers, module = make_layers("windows"), PatchSimilarityEntropy(variant)
    rows = module.per_layer(layers)  # (L, batch)
    assert rows.shape == (2, 3)
    expected = torch.stack([row for row in (layer_entropy(layer, variant) for layer in layers) if row is not None])
    torch.testing.assert_close(rows.double(), expected, rtol=TOLERANCE, atol=TOLERANCE)
    images = rows.sum(0) if variant == "v1" else rows.mean(0)
    torch.testing.assert_close(similarity_entropy(layers, variant), images)
    torch.testing.assert_close(module(layers), -images.mean())


def test_layers_without_two_pairs_are_left_out() -> None:
    full = AttentionTokens(draw((2, 1, 5, 3), 0), layer="full")
    single = AttentionTokens(draw((2, 1, 3, 3), 1), torch.tensor([[0, 0, -1]]), "single")
    module = PatchSimilarityEntropy()
    assert [layer.layer for layer in module.usable([single, full])] == ["full"]
    assert torch.equal(module([single, full]), module([full]))
    with pytest.raises(GenerationError, match="no attention layer"):
        module([single])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("zeros", [1, 8], ids=["one-token", "all-tokens"])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["plain", "regions"])
def test_zero_tokens_are_finite(variant: str, zeros: int, regions: torch.Tensor | None) -> None:
    tokens = draw((2, 2, 8, 5), 11).detach()
    tokens[:, :, 8 - zeros :] = 0
    tokens.requires_grad_()
    loss = PatchSimilarityEntropy(variant)([AttentionTokens(tokens, regions)])
    (gradient,) = torch.autograd.grad(loss, tokens)
    assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_does_not_reach_the_similarities(variant: str) -> None:
    layers, module = make_layers("windows"), PatchSimilarityEntropy(variant)
    expected = module(layers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(layers), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "kl"}, "use one of"),
        ({"variant": "gaussian", "bandwidth": 0.1}, "no bandwidth"),
        ({"variant": "gaussian", "points": 10}, "no bandwidth"),
        ({"variant": "kde", "bandwidth": 0.03}, "below the grid spacing"),
        ({"variant": "v1", "bandwidth": 0.0}, "not positive"),
        ({"variant": "kde", "points": 1}, "at least 2"),
    ],
    ids=["variant", "gaussian-bandwidth", "gaussian-points", "narrow", "zero", "one-point"],
)
def test_settings_that_do_not_work_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        PatchSimilarityEntropy(**arguments)


def test_defaults_and_unequal_batches() -> None:
    kde, fine, v1 = (PatchSimilarityEntropy(*args).variant for args in (("kde",), ("kde", None, 129), ("v1",)))
    assert isinstance(kde, KernelVariant) and kde.bandwidth == 1 / 32
    assert isinstance(fine, KernelVariant) and fine.bandwidth == 1 / 64
    assert isinstance(v1, KernelVariant) and v1.bandwidth == 0.01 and v1.points == 10
    with pytest.raises(GenerationError, match="batch sizes differ"):
        similarity_entropy([AttentionTokens(draw((1, 1, 5, 3), 0)), AttentionTokens(draw((2, 1, 5, 3), 0))])


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("gaussian", "variant='gaussian'"), ("v1", "variant='v1', bandwidth=0.01, points=10")],
    ids=["gaussian", "v1"],
)
def test_settings_are_printed(variant: str, expected: str) -> None:
    assert expected in repr(PatchSimilarityEntropy(variant))
