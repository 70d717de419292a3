from __future__ import annotations

import math

import pytest
import torch

from psaq_mm.generation import GenerationError, ImagePrior, rms_differences
from tests.generation.losses import reference
from tests.generation.losses.reference import relative_error, v1_tv


def noise(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_rms_of_the_docstrings_example() -> None:
    stripes = (torch.arange(6) % 2).float().expand(1, 3, 5, 6)
    # The guard under the root is 1e-6 after it.
    assert rms_differences(stripes)[0].tolist() == pytest.approx([1, 0, 1, 1], abs=2e-6)


def test_rms_and_gradient_equal_the_reference() -> None:
    x = noise(2, 3, 5, 4).requires_grad_()
    expected = reference.rms_differences(x.double())
    assert relative_error(rms_differences(x), expected) < 1e-6
    loss = ImagePrior((0.3, 0.3), 439.0)(x)
    reference_loss = 439.0 * (expected.mean(1) - 0.3).abs().sum() / 2
    gradients = [torch.autograd.grad(value, x)[0] for value in (loss, reference_loss)]
    assert relative_error(*gradients) < 1e-5


@pytest.mark.parametrize("side", [32, 224], ids=str)
def test_any_resolution_and_batch_gets_the_same_loss(side: int) -> None:
    # Independent pixels differ by sqrt(2) s in rms; at 32 x 32 the sample's own scatter is 1 %.
    x = noise(3, 3, side, side, scale=0.3)
    assert rms_differences(x).mean().item() == pytest.approx(0.3 * math.sqrt(2), rel=0.02)
    prior = ImagePrior()
    expected = 439 * (0.3 * math.sqrt(2) - 0.3135)
    assert prior(x).item() == pytest.approx(expected, rel=0.05)
    assert prior(x).item() == pytest.approx(sum(prior(one[None]).item() for one in x) / 3, rel=1e-5)


def test_equals_v1_for_its_batch_and_resolution() -> None:
    x = noise(32, 3, 224, 224, scale=0.3)
    for target in (2500.0, 3000.0):
        ours = target / (4 * math.sqrt(32 * 3 * 224 * 224))
        assert 0.284 < ours < 0.343
        v1 = 0.05 * (v1_tv(x) - target).abs().item()
        # Neighbours are 0.2 % fewer than pixels, which shifts TV by 0.3 % and |TV - t| by a little more.
        assert ImagePrior((ours, ours))(x).item() == pytest.approx(v1, rel=0.02)


def test_constant_image_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    ImagePrior()(x).backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_draw_is_uniform_over_the_range_and_reproducible() -> None:
    prior = ImagePrior((0.2, 0.4))
    assert float(prior.target) == pytest.approx(0.3)
    first = prior.draw(torch.Generator().manual_seed(1))
    assert float(prior.target) == first == prior.draw(torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    draws = [prior.draw(generator) for _ in range(200)]
    assert 0.2 <= min(draws) < 0.21 and 0.39 < max(draws) <= 0.4


def test_drawn_target_is_in_the_state_dict() -> None:
    one, other = ImagePrior(), ImagePrior()
    one.draw(torch.Generator().manual_seed(5))
    other.load_state_dict(one.state_dict())
    assert float(other.target) == float(one.target)


@pytest.mark.parametrize(
    "arguments",
    [{"target": (0.4, 0.3)}, {"target": (-0.1, 0.3)}, {"weight": -1.0}],
    ids=["empty", "negative", "weight"],
)
def test_settings_that_do_not_work_are_refused(arguments: dict) -> None:
    with pytest.raises(GenerationError):
        ImagePrior(**arguments)


def test_images_without_neighbours_are_refused() -> None:
    with pytest.raises(GenerationError, match="2 x 2"):
        rms_differences(torch.zeros(1, 3, 1, 8))


def test_every_image_may_have_its_own_target():
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    prior = ImagePrior(weight=2.0)
    own = rms_differences(images).mean(1)
    assert float(prior(images, own)) == 0.0
    # Each off by 0.1, times the weight of 2; float32 leaves six digits.
    assert float(prior(images, own + 0.1)) == pytest.approx(0.2, rel=1e-5)
