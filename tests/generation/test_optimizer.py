from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from psaq_mm.generation import (
    AttentionTokens,
    GenerationError,
    ImageOptimizer,
    ImagePrior,
    NonFiniteLossError,
    PatchSimilarityEntropy,
    RollFlip,
    initial_images,
)

LOWER, UPPER = (-2.0, -1.5, -1.0), (2.0, 1.5, 1.0)


def noise(count: int = 6) -> Tensor:
    return initial_images(count, (12, 8), LOWER, UPPER, torch.Generator().manual_seed(0))


def make(images: Tensor | None = None, **settings: Any) -> ImageOptimizer:
    settings = {"steps": 30, "warmup": 3, "augment": RollFlip(3), **settings}
    return ImageOptimizer(noise() if images is None else images, LOWER, UPPER, **settings)


def loss_fn(x: Tensor) -> dict[str, Tensor]:
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (batch, 6, 48)
    return {
        "entropy": PatchSimilarityEntropy()([AttentionTokens(patches.unsqueeze(1))]),
        "prior": ImagePrior(weight=5.0)(x),
    }


def test_loss_falls_within_the_valid_pixels() -> None:
    optimizer = make(steps=40, lr=0.1)
    records = [optimizer.step(loss_fn) for _ in range(40)]
    assert records[-1]["loss"] < records[0]["loss"] - 1
    for channel, (low, high) in enumerate(zip(LOWER, UPPER, strict=True)):
        assert optimizer.images[:, channel].min() >= low and optimizer.images[:, channel].max() <= high


def test_pixels_are_clamped_after_every_step() -> None:
    optimizer = make(lr=100.0, warmup=0, augment=None)
    optimizer.step(lambda x: {"brighter": -x.mean()})
    for channel, high in enumerate(UPPER):
        assert (optimizer.images[:, channel] == high).all()


def test_start_is_copied_and_left_alone() -> None:
    start = noise()
    before = start.clone()
    make(start).step(loss_fn)
    assert torch.equal(start, before)


def test_record_names_terms_and_their_gradients() -> None:
    optimizer = make(gradient_every=2, augment=None)
    pixels = optimizer.images.clone().requires_grad_()
    terms = loss_fn(pixels)
    record = optimizer.step(loss_fn)
    assert set(record) == {"loss", "lr", "loss/entropy", "loss/prior", "gradient/entropy", "gradient/prior"}
    assert record["lr"] == pytest.approx(0.2 / 3)
    assert record["loss"] == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-6)
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, pixels, retain_graph=True)
        assert record[f"gradient/{name}"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert "gradient/prior" not in optimizer.step(loss_fn)
    assert "gradient/prior" in optimizer.step(loss_fn)


def test_constant_term_is_reported_with_gradient_0() -> None:
    record = make().step(lambda x: {"prior": x.square().mean(), "constant": torch.tensor(3.0)})
    assert record["loss/constant"] == 3 and record["gradient/constant"] == 0


def test_measuring_gradients_does_not_change_the_images() -> None:
    plain, logged = make(), make(gradient_every=1)
    for _ in range(3):
        plain.step(loss_fn)
        logged.step(loss_fn)
    # Only the order in which the terms' gradients are added differs; Adam's first steps divide by them.
    torch.testing.assert_close(plain.images, logged.images, rtol=0, atol=1e-3)


@pytest.mark.parametrize("gradient_every", [10, 1], ids=["sum", "by-term"])
@pytest.mark.parametrize("micro_batch", [1, 4, 6, 100], ids=str)
def test_micro_batches_equal_the_whole_batch(micro_batch: int, gradient_every: int) -> None:
    whole, parts = make(gradient_every=gradient_every), make(gradient_every=gradient_every)
    # The second step: at the first the gradients of all terms are measured in any case.
    whole.step(loss_fn)
    parts.load_state_dict(whole.state_dict())
    parts.micro_batch = micro_batch
    record, other = whole.step(loss_fn), parts.step(loss_fn)
    assert record == pytest.approx(other, rel=1e-4, abs=1e-6)
    # Adam's first steps are about lr * sign(gradient) whatever its size: compare the moments, not the pixels.
    moments = [one.state_dict()["adam"]["state"][0]["exp_avg"] for one in (whole, parts)]
    torch.testing.assert_close(*moments, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("micro_batch", [None, 4], ids=["whole", "micro-batches"])
def test_resumes_to_the_bit(micro_batch: int | None) -> None:
    straight = make(micro_batch=micro_batch, gradient_every=3)
    for _ in range(4):
        straight.step(loss_fn)
    state = straight.state_dict()
    resumed = make(
        torch.zeros_like(noise()),
        micro_batch=micro_batch,
        gradient_every=3,
        generator=torch.Generator().manual_seed(9),
    )
    resumed.load_state_dict(state)
    for _ in range(4):
        assert straight.step(loss_fn) == resumed.step(loss_fn)
    assert torch.equal(straight.images, resumed.images)
    # The state was a copy, so it still leads to the same end.
    again = make(micro_batch=micro_batch, gradient_every=3)
    again.load_state_dict(state)
    for _ in range(4):
        again.step(loss_fn)
    assert torch.equal(again.images, straight.images)


def poison(step: int, how: Callable[[Tensor], Tensor]) -> Callable[[Tensor], dict[str, Tensor]]:
    calls = iter(range(100))

    def poisoned(x: Tensor) -> dict[str, Tensor]:
        terms = loss_fn(x)
        return {**terms, "distance": how(x) if next(calls) == step else x.mean()}

    return poisoned


@pytest.mark.parametrize(
    ("how", "gradient_every", "term"),
    [
        (lambda x: x.mean() * float("nan"), 10, "distance"),
        (lambda x: x.mean() - float("inf"), 1, "distance"),
        (lambda x: (x * 0).sum().sqrt(), 10, "gradient"),
        (lambda x: (x * 0).sum().sqrt(), 1, "distance"),
    ],
    ids=["nan", "infinite", "gradient", "gradient-of-the-term"],
)
@pytest.mark.parametrize("micro_batch", [None, 3], ids=["whole", "second-chunk"])
def test_non_finite_terms_stop_at_the_last_good_state(
    how: Callable[[Tensor], Tensor], gradient_every: int, term: str, micro_batch: int | None
) -> None:
    optimizer = make(micro_batch=micro_batch, gradient_every=gradient_every)
    poisoned = poison(1 if micro_batch is None else 3, how)
    optimizer.step(poisoned)
    good = optimizer.images.clone()
    with pytest.raises(NonFiniteLossError, match="lower the learning rate") as caught:
        optimizer.step(poisoned)
    assert caught.value.term == term
    assert optimizer.step_count == 1 and torch.equal(optimizer.images, good)
    optimizer.step(loss_fn)
    assert optimizer.images.isfinite().all()


def test_networks_parameters_get_no_gradients() -> None:
    layer = torch.nn.Conv2d(3, 1, 3)
    make().step(lambda x: {"activation": layer(x).mean()})
    assert layer.weight.grad is None


def test_runs_under_no_grad() -> None:
    with torch.no_grad():
        make().step(loss_fn)


@pytest.mark.parametrize(
    "terms",
    [lambda x: {"a": x.detach().mean()}, lambda x: {"a": torch.ones((), requires_grad=True) * 2}],
    ids=["detached", "of-something-else"],
)
def test_terms_that_do_not_reach_the_images_are_an_error(terms: Callable[[Tensor], dict[str, Tensor]]) -> None:
    with pytest.raises(GenerationError, match="no loss term depends on the images"):
        make().step(terms)


def test_steps_end_with_the_schedule() -> None:
    optimizer = make(steps=1, warmup=0)
    optimizer.step(loss_fn)
    with pytest.raises(GenerationError, match="all 1 steps"):
        optimizer.step(loss_fn)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"warmup": 31},
        {"lr": 0.0},
        {"micro_batch": 0},
        {"images": torch.zeros(3, 4, 4)},
        {"images": torch.zeros(1, 4, 4, 4)},
    ],
    ids=["steps", "warmup", "lr", "micro-batch", "three-dims", "channels"],
)
def test_settings_that_do_not_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(GenerationError):
        make(**settings)


def test_bounds_and_states_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GenerationError, match="lower below upper"):
        ImageOptimizer(noise(), UPPER, LOWER, steps=1)
    with pytest.raises(GenerationError, match="resume with"):
        make().load_state_dict(make(noise(2)).state_dict())
