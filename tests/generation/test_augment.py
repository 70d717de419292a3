from __future__ import annotations

import pytest
import torch

from psaq_mm.generation import GenerationError, RollFlip, View

IMAGE = torch.arange(12.0).view(1, 1, 3, 4)


@pytest.mark.parametrize(
    ("view", "row"),
    [
        (View(0, 0, False), [0, 1, 2, 3]),
        (View(0, 1, False), [3, 0, 1, 2]),
        (View(1, 0, False), [8, 9, 10, 11]),
        (View(0, 1, True), [2, 1, 0, 3]),
    ],
    ids=["identity", "right", "down", "mirrored"],
)
def test_view(view: View, row: list[int]) -> None:
    assert view(IMAGE)[0, 0, 0].tolist() == row


def test_one_draw_for_the_batch_reproducible_by_its_generator() -> None:
    batch = IMAGE.expand(5, 3, 3, 4)
    one, other = (RollFlip()(batch, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(one, one[:1, :1].expand_as(one))


def test_every_image_may_have_a_draw_of_its_own() -> None:
    batch = IMAGE.expand(20, 3, 3, 4)
    views = RollFlip(2, per_image=True)(batch, torch.Generator().manual_seed(4))
    assert views.shape == batch.shape and len({str(view.tolist()) for view in views}) > 5
    assert torch.equal(views.flatten(2).sort(-1).values, batch.flatten(2).sort(-1).values)


def test_draws_cover_both_axes_and_the_flip() -> None:
    generator = torch.Generator().manual_seed(0)
    views = [RollFlip(2, 0.5).draw(generator) for _ in range(200)]
    assert {view.down for view in views} == {view.right for view in views} == {-2, -1, 0, 1, 2}
    assert any(view.down != view.right for view in views)
    # Binomial(200, 1/2): 70 to 130 is four standard deviations.
    assert 70 < sum(view.mirrored for view in views) < 130


@pytest.mark.parametrize("flip", [0.0, 1.0], ids=str)
def test_extremes_of_the_flip_are_certain(flip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    assert {RollFlip(0, flip).draw(generator).mirrored for _ in range(50)} == {flip == 1.0}


@pytest.mark.parametrize("arguments", [{"max_shift": -1}, {"flip": 1.5}], ids=["shift", "flip"])
def test_settings_that_do_not_work_are_refused(arguments: dict) -> None:
    with pytest.raises(GenerationError):
        RollFlip(**arguments)
