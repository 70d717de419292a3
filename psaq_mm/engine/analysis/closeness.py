"""How close a quantized model is to the float model on samples, which needs no labels."""

from __future__ import annotations

import torch

from ...analysis.sensitivity import Reference
from ...generation import RandomCrops
from ...models.features import FeaturesAndLogits
from ..runner import DFQRunner

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
    images = runner.pool.first(IMAGES)
    # Another seed than calibration's, whose crops are drawn from the run's.
    crops = RandomCrops(1)(images, torch.Generator().manual_seed(2**31 + runner.state.seed))[len(images) :]
    batches = crops.split(BATCH)
    try:
        forwards = [FeaturesAndLogits(runner.teacher) for _ in batches]
        reference = Reference(runner.teacher, batches, forwards, forwards[0].classes, forwards[0].scores)
        found = reference.distances(runner.student)
    except Exception as error:  # models of others can raise any exception, and the run must not be lost
        reason = " ".join(str(error).split())
        runner.logger.warning(f"the models are not compared on samples ({type(error).__name__}: {reason})")
        return {}
    return {key: value for key, value in found._asdict().items() if value is not None}
