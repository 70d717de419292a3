"""How close a quantized model is to the float model on samples, which needs no labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ...analysis.sensitivity import Distances, Reference
from ...generation import RandomCrops
from ...models.features import FeaturesAndLogits
from ..runner import DFQRunner

T = TypeVar("T")
IMAGES, BATCH = 16, 8


def closeness(runner: DFQRunner) -> dict[str, float]:
    """Compare the models of a finished run on crops of its samples, which neither calibration nor training saw.

    Args:
        runner: A runner after ``train()``.

    Returns:
        ``features``, ``logits`` and ``agreement`` of :class:`psaq_mm.analysis.sensitivity.Distances`. What the model
        does not have is left out, and everything, with a warning in the log, for a model that cannot be run in this
        way.
    """
    return attempt(runner, "compared on samples", lambda: present(reference(runner).distances(runner.student)), {})


def present(distances: Distances) -> dict[str, float]:
    """The distances that a model has, by name."""
    return {key: value for key, value in distances._asdict().items() if value is not None}


def unseen_crops(runner: DFQRunner, count: int = IMAGES) -> Tensor:
    """Crops of the first samples, other ones than calibration's, whose crops are drawn from the run's seed."""
    images = runner.pool.first(count)
    return RandomCrops(1)(images, torch.Generator().manual_seed(2**31 + runner.state.seed))[len(images) :]


def reference(runner: DFQRunner) -> Reference:
    """The outputs of the float model on :func:`unseen_crops`."""
    batches = unseen_crops(runner).split(BATCH)
    forwards = [FeaturesAndLogits(runner.teacher) for _ in batches]
    return Reference(runner.teacher, batches, forwards, forwards[0].classes, forwards[0].scores)


def attempt(runner: DFQRunner, what: str, make: Callable[[], T], otherwise: T) -> T:
    """The result of a function; a warning, and something else, if it fails.

    Args:
        runner: Its log receives the warning.
        what: What the models then are not.
        make: The function. Models of others can raise any exception in it, and the run must not be lost.
        otherwise: The other result.
    """
    try:
        return make()
    except Exception as error:
        reason = " ".join(str(error).split())
        runner.logger.warning(f"the models are not {what} ({type(error).__name__}: {reason})")
        return otherwise
