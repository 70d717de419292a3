from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from torch import Tensor

from psaq_mm.generation import GenerationError, SamplePool


def batch(*values: float) -> Tensor:
    """One-pixel images that carry a number each."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def numbers(images: Tensor) -> list[int]:
    return [int(value) for value in images.flatten().tolist()]


def filled(capacity: int = 6, batches: int = 5, seed: int = 0) -> SamplePool:
    pool = SamplePool(capacity, seed)
    for index in range(batches):
        pool.add(batch(2 * index, 2 * index + 1), f"batch {index}")
    return pool


def test_holds_everything_in_order_up_to_its_capacity() -> None:
    pool = filled(capacity=6, batches=3)
    assert len(pool) == 6 and numbers(pool.images) == [0, 1, 2, 3, 4, 5]
    assert numbers(pool.newest) == [4, 5]
    assert pool.tags == ["batch 0"] * 2 + ["batch 1"] * 2 + ["batch 2"] * 2


def test_newest_batch_always_stays() -> None:
    for seed in range(20):
        pool = filled(capacity=3, batches=7, seed=seed)
        assert len(pool) == 3 and numbers(pool.newest) == [12, 13] == numbers(pool.images)[-2:]
    pool.add(batch(20, 21, 22))
    assert numbers(pool.images) == [20, 21, 22]


def test_past_is_a_uniform_choice_of_any_age() -> None:
    # Ten batches of one, five places: four of the first nine survive. Binomial(900, 4/9): 400 +- 60 is four deviations.
    counts = [0] * 9
    for seed in range(900):
        pool = SamplePool(5, seed)
        for value in range(10):
            pool.add(batch(value))
        for value in numbers(pool.images)[:-1]:
            counts[value] += 1
    assert sum(counts) == 4 * 900
    assert all(340 < count < 460 for count in counts), counts


def test_images_that_are_held_out_stay_and_are_never_drawn() -> None:
    pool = SamplePool(5, 0)
    pool.add(batch(0, 1, 2))
    pool.hold_out(2)
    for index in range(2, 12):
        pool.add(batch(2 * index, 2 * index + 1))
        assert numbers(pool.held) == [0, 1] == numbers(pool.images)[:2] and len(pool) == 5
        again = SamplePool(5, 1)
        again.load_state_dict(pool.state_dict())
        for one in (pool, again):
            drawn = numbers(one.sample(6, torch.Generator().manual_seed(index), 0.5))
            assert set(drawn) == set(numbers(pool.images)[2:])
    with pytest.raises(GenerationError, match="held_out=5 leaves none of 5 images to train on: use fewer"):
        pool.hold_out(5)
    with pytest.raises(GenerationError, match="to a pool of 3"):
        pool.add(batch(*range(4)))


def test_a_batch_can_be_held_out_in_part() -> None:
    pool = SamplePool(8, 0)
    pool.add(batch(0, 1, 2, 3))
    pool.hold_out(1)
    assert sorted(numbers(pool.sample(3, torch.Generator().manual_seed(0)))) == [1, 2, 3]


@pytest.mark.parametrize(("newest", "expected"), [(0.0, 0), (0.5, 4), (1.0, 8)], ids=["past", "half", "newest"])
def test_share_of_the_newest_batch(newest: float, expected: int) -> None:
    drawn = numbers(filled(capacity=8).sample(8, torch.Generator().manual_seed(0), newest))
    assert len(drawn) == 8 and sum(value in (8, 9) for value in drawn) == expected


def test_first_batch_is_all_there_is() -> None:
    pool = filled(batches=1)
    assert sorted(numbers(pool.sample(4, torch.Generator().manual_seed(0), newest=0.0))) == [0, 0, 1, 1]


def test_no_image_repeats_before_all_have_come() -> None:
    drawn = numbers(filled(capacity=10).sample(10, torch.Generator().manual_seed(1), newest=0.2))
    assert sorted(drawn) == list(range(10))


def test_draws_are_reproducible() -> None:
    one, other = (filled().sample(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)


def test_hash_is_of_the_float32_bytes_in_order() -> None:
    pool = SamplePool(4)
    pool.add(batch(1.5, -2.0))
    pool.add(batch(3.0))
    assert pool.sha256() == hashlib.sha256(struct.pack("=3f", 1.5, -2.0, 3.0)).hexdigest()
    other = SamplePool(4)
    other.add(batch(-2.0, 1.5).double())
    other.add(batch(3.0))
    assert other.sha256() != pool.sha256()


def test_hash_of_images_that_lie_strided_in_memory() -> None:
    images = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    one, other = SamplePool(4), SamplePool(4)
    one.add(images)
    other.add(images.contiguous(memory_format=torch.channels_last))
    assert one.sha256() == other.sha256()


def test_goes_on_from_a_state_dict_as_if_uninterrupted() -> None:
    straight, resumed = filled(), SamplePool(6, seed=77)
    resumed.load_state_dict(straight.state_dict())
    for pool in (straight, resumed):
        pool.add(batch(20, 21))
        pool.add(batch(22))
    assert straight.sha256() == resumed.sha256() and straight.tags == resumed.tags
    assert torch.equal(straight.newest, resumed.newest)


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.images: dict[str, Tensor] = {}

    def keep(self, image: Tensor) -> str:
        name = str(float(image))
        self.images[name] = image.clone()
        return name

    def open(self, name: str) -> Tensor:
        return self.images[name]


def test_with_a_store_the_state_holds_names() -> None:
    shelf, plain = Shelf(), filled()
    pool = SamplePool(6, store=shelf)
    for index in range(5):
        pool.add(batch(2 * index, 2 * index + 1), f"batch {index}")
    assert pool.sha256() == plain.sha256() and pool.names == [f"{value}.0" for value in numbers(plain.images)]
    state = pool.state_dict()
    assert state["images"] is None and plain.names == []
    resumed = SamplePool(6, store=shelf)
    resumed.load_state_dict(state)
    assert resumed.sha256() == plain.sha256() and resumed.names == pool.names
    with pytest.raises(GenerationError, match="give the pool that store"):
        SamplePool(6).load_state_dict(state)


def test_first_and_size() -> None:
    pool = SamplePool(4)
    pool.add(torch.arange(6.0).view(3, 1, 1, 2))
    assert pool.image_size == (1, 2)
    assert pool.first(2).flatten().tolist() == [0, 1, 2, 3] and len(pool.first(9)) == 3
    with pytest.raises(GenerationError, match="add samples first"):
        _ = SamplePool(4).image_size


def test_empty_pool() -> None:
    pool = SamplePool(2)
    with pytest.raises(GenerationError, match="add samples first"):
        pool.sample(1, torch.Generator())
    with pytest.raises(GenerationError, match="add samples first"):
        _ = pool.images
    assert len(pool) == 0 and pool.sha256() == hashlib.sha256().hexdigest()
    filled_pool = filled()
    filled_pool.load_state_dict(pool.state_dict())
    assert len(filled_pool) == 0


def test_images_are_copies() -> None:
    images = batch(1, 2)
    pool = SamplePool(2)
    pool.add(images)
    images.zero_()
    pool.images.zero_()
    assert numbers(pool.images) == [1, 2]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (batch(*range(7)), "at most its capacity"),
        (torch.zeros(1, 3), "pass"),
        (torch.zeros(1, 1, 2, 2), "one pool per size"),
        (batch(float("nan")), "not finite"),
    ],
    ids=["too-many", "shape", "size", "nan"],
)
def test_images_that_do_not_fit_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        filled().add(images)


def test_settings_that_do_not_work_are_refused() -> None:
    with pytest.raises(GenerationError):
        SamplePool(0)
    with pytest.raises(GenerationError):
        filled().sample(0, torch.Generator())
    with pytest.raises(GenerationError):
        filled().sample(1, torch.Generator(), newest=2.0)
    with pytest.raises(GenerationError, match="raise its capacity"):
        SamplePool(1).load_state_dict(filled().state_dict())
