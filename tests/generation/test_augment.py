from __future__ import annotations

from typing import Any

import pytest
import torch

from psaq_mm.generation import GenerationError, RandomCrops, RollFlip, View

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


RAMP = torch.arange(40.0).view(1, 1, 1, 40).expand(2, 3, 24, 40)


def test_crops_follow_the_images() -> None:
    found, again = (RandomCrops(2)(RAMP, torch.Generator().manual_seed(1)) for _ in range(2))
    assert found.shape == (6, 3, 24, 40)
    assert torch.equal(found[:2], RAMP) and torch.equal(found, again)
    assert len({str(one[0, 0].tolist()) for one in found[2:]}) == 4


def test_no_crops_leave_the_images() -> None:
    assert torch.equal(RandomCrops(0)(RAMP), RAMP)


@pytest.mark.parametrize("smallest", [0.25, 0.5, 1.0])
def test_crops_have_at_least_the_smallest_side(smallest: float) -> None:
    crops = RandomCrops(100, smallest, flip=0)(RAMP[:1], torch.Generator().manual_seed(2))[1:, 0]
    shown = crops[:, 0].max(1).values - crops[:, 0].min(1).values
    # bicubic interpolation shows a little more or less of the ramp at its ends
    assert shown.min() > 39 * smallest - 2 and shown.max() < 41
    assert smallest == 1 or shown.max() - shown.min() > 39 * (1 - smallest) / 2
    # inner columns ascend: resized, not shuffled, and without flip
    assert (crops[:, 0, 2:-2].diff() > 0).all()


def test_half_of_the_crops_are_flipped() -> None:
    crops = RandomCrops(200)(RAMP[:1], torch.Generator().manual_seed(3))[1:, 0]
    # four standard deviations of a fair coin's share in 200 draws
    assert abs((crops[:, 0, 20] > crops[:, 0, 21]).float().mean() - 0.5) < 0.15


@pytest.mark.parametrize(
    "options",
    [{"count": -1}, {"count": 1.5}, {"count": "2"}, {"smallest": 0}, {"smallest": 1.5}, {"flip": -0.1}],
    ids=str,
)
def test_crops_have_ranges(options: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match="give"):
        RandomCrops(**options)
