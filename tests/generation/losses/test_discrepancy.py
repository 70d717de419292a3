from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from psaq_mm.generation import Discrepancy, GenerationError
from psaq_mm.generation.losses.distances import DISTANCES

# One entry per file of psaq_mm/generation/losses/distances.
FORMS = ["cosine", "kl", "mae"]
SHAPES = [(4, 5, 3, 2), (4, 7, 2, 2), (4, 6)]


def features(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3.0**level * torch.randn(shape, generator=generator) for level, shape in enumerate(SHAPES)]


def make(form: str, temperature: float = 1.0) -> Discrepancy:
    distance = Discrepancy(form, temperature)
    distance.fit(features(0))
    return distance


def reference(form: str, teacher: list[Tensor], student: list[Tensor], temperature: float) -> float:
    """Position by position in Python floats; the constants are measured on ``features(0)``."""
    levels = []
    for t, s, first in zip(teacher, student, features(0), strict=True):
        vectors = [x.double().movedim(1, -1).flatten(0, -2).tolist() for x in (t, s)]
        values = []
        for a, b in zip(*vectors, strict=True):
            if form == "mae":
                norm = sum(abs(v) for v in first.double().flatten().tolist()) / first.numel()
                values.append(sum(abs(p - q) for p, q in zip(a, b, strict=True)) / len(a) / norm)
            elif form == "cosine":
                product = sum(p * q for p, q in zip(a, b, strict=True))
                values.append(1 - product / (math.hypot(*a) * math.hypot(*b)))
            else:
                p, q = ([math.exp(v / temperature) for v in one] for one in (a, b))
                p, q = ([v / sum(one) for v in one] for one in (p, q))
                values.append(temperature**2 * sum(u * math.log(u / v) for u, v in zip(p, q, strict=True)))
        levels.append(sum(values) / len(values))
    return sum(levels) / len(levels)


def test_all_forms_are_tested_here() -> None:
    assert list(DISTANCES.names) == FORMS


@pytest.mark.parametrize("temperature", [1.0, 4.0], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_reference(form: str, temperature: float) -> None:
    teacher, student = features(1), features(2)
    expected = reference(form, teacher, student, temperature)
    # Float32 sums of some hundred terms of order 1.
    assert make(form, temperature)(teacher, student).item() == pytest.approx(expected, rel=1e-5)


def test_mae_of_the_docstrings_example() -> None:
    distance = Discrepancy()
    distance.fit([torch.tensor([[2.0, -2.0]])])
    assert distance([torch.tensor([[2.0, -2.0]])], [torch.tensor([[1.0, -2.0]])]).item() == 0.25


def test_cosine_and_kl_of_the_docstrings_examples() -> None:
    cosine, kl = Discrepancy("cosine"), Discrepancy("kl")
    assert cosine([torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 3.0]])]).item() == pytest.approx(1.0)
    assert kl([torch.tensor([[0.0, math.log(3)]])], [torch.zeros(1, 2)]).item() == pytest.approx(0.131, abs=5e-4)


@pytest.mark.parametrize("form", FORMS)
def test_equal_outputs_are_at_distance_0(form: str) -> None:
    assert make(form)(features(1), features(1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_both_sides(form: str) -> None:
    teacher, student = ([level.requires_grad_() for level in features(seed)] for seed in (1, 2))
    make(form)(teacher, student).backward()
    for level in teacher + student:
        assert level.grad is not None and level.grad.isfinite().all() and level.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_micro_batches_weighted_by_size_add_up(form: str) -> None:
    distance, teacher, student = make(form), features(1), features(2)
    parts = [
        distance([t[part] for t in teacher], [s[part] for s in student]) * share
        for part, share in ((slice(0, 1), 0.25), (slice(1, 4), 0.75))
    ]
    assert sum(parts).item() == pytest.approx(distance(teacher, student).item(), rel=1e-5)


def test_constants_are_measured_once_and_saved() -> None:
    distance = Discrepancy()
    assert not distance.fitted
    distance.fit(features(0))
    assert distance.norms.tolist() == pytest.approx([level.abs().mean().item() for level in features(0)])
    with pytest.raises(GenerationError, match="measured once"):
        distance.fit(features(1))
    loaded = Discrepancy()
    loaded.load_state_dict(distance.state_dict())
    assert torch.equal(loaded.norms, distance.norms)
    assert loaded(features(1), features(2)) == distance(features(1), features(2))


def test_mae_needs_its_constants() -> None:
    with pytest.raises(GenerationError, match="call fit"):
        Discrepancy()(features(1), features(2))
    assert Discrepancy("cosine")(features(1), features(2)) > 0


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (features(1), features(2)[:2], "3 teacher and 2 student levels"),
        ([], [], "at least 1"),
        (features(1), [*features(2)[:2], torch.zeros(4, 5)], "level 2"),
        (features(1)[:2], features(2)[:2], "fitted on 3 levels"),
    ],
    ids=["levels", "none", "shapes", "fitted-on-others"],
)
def test_outputs_that_do_not_match_are_refused(teacher: list[Tensor], student: list[Tensor], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        make("mae")(teacher, student)


@pytest.mark.parametrize("level", [torch.zeros(2, 3), torch.full((2, 3), float("nan"))], ids=["zero", "nan"])
def test_dead_levels_are_refused(level: Tensor) -> None:
    with pytest.raises(GenerationError, match="level 1.*leave it out"):
        Discrepancy().fit([torch.ones(2, 3), level])
    with pytest.raises(GenerationError, match="at least one level"):
        Discrepancy().fit([])


@pytest.mark.parametrize("arguments", [{"form": "mse"}, {"temperature": 0.0}], ids=["form", "temperature"])
def test_settings_that_do_not_work_are_refused(arguments: dict) -> None:
    with pytest.raises(GenerationError):
        Discrepancy(**arguments)
