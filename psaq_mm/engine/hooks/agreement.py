"""Agreement of a quantized model's predictions with the float model's."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ...registry import HOOKS
from .comparisons import Comparison, Stored, comparison_of

# 33,000 images of 1,000 class scores in float64, or 780 class maps of 500x683 pixels.
CACHE_BYTES = 2**28


class PredictionCache:
    """Predictions of one teacher by image, so that the rows of an ablation evaluate it once.

    Args:
        limit: Largest size in bytes; predictions of further images are not stored, and are computed again for each row.

    Attributes:
        teacher: :func:`fingerprint` of the teacher; another teacher replaces all predictions.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit, self.teacher = limit, ""
        self._stored: dict[str, Stored] = {}
        self._bytes = 0

    def find(self, teacher: str, images: Sequence[str | None]) -> list[Stored] | None:
        """The stored predictions of a batch; None unless those of all images are stored."""
        if teacher != self.teacher:
            return None
        found = [self._stored[image] for image in images if image is not None and image in self._stored]
        return found if len(found) == len(images) else None

    def add(self, teacher: str, images: Sequence[str | None], predictions: Sequence[Stored]) -> None:
        """Store the predictions of a batch; images without a key are left out."""
        if teacher != self.teacher:
            self.teacher, self._stored, self._bytes = teacher, {}, 0
        for image, one in zip(images, predictions, strict=True):
            size = sum(part.nbytes for part in one)
            if image is not None and image not in self._stored and self._bytes + size <= self.limit:
                # Copies, because a part may be a view of the whole batch.
                self._stored[image] = tuple(part.clone() for part in one)
                self._bytes += size


# Shared by all runners of the process.
CACHE = PredictionCache()


@HOOKS.register_module()
class AgreementHook(Hook):
    """Adds ``float/agreement``, and ``float/kl`` for classifiers, to the metrics of a test.

    The agreement is in percent, and 100 if the evaluated model predicts what the teacher predicts:

    - classifiers: the share of images with the teacher's top-1;
    - semantic segmentors: the share of pixels with the teacher's class;
    - detectors: the F1 score of detections that have the teacher's label and overlap its box.

    :mod:`.comparisons` has the formulas. The metrics need no labels, and differ between models that have the same
    accuracy on few images. They are left out when the teacher itself is evaluated.

    Raises:
        UsageError: The predictions are of another kind, such as panoptic segments.
    """

    def __init__(self) -> None:
        self.teacher = ""
        self.kind: Comparison | None = None

    def before_test_epoch(self, runner: Runner) -> None:
        """Reset the sums."""
        self.kind = None
        self.sums = torch.zeros(3, dtype=torch.float64)

    @torch.no_grad()
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Compare the predictions of a batch with the teacher's."""
        if runner.bare_model() is runner.teacher or not outputs:
            return
        self.kind = comparison_of(outputs)
        theirs = self.teacher_predictions(runner, self.kind, data_batch or {}, [image_key(one) for one in outputs])
        self.sums += self.kind.sums(theirs, [self.kind.stored(sample) for sample in outputs])

    def teacher_predictions(
        self, runner: Runner, kind: Comparison, batch: dict[str, Any], images: Sequence[str | None]
    ) -> list[Stored]:
        """The teacher's predictions of a batch, from the cache or computed."""
        if not self.teacher:
            self.teacher = fingerprint(runner.teacher)
        stored = CACHE.find(self.teacher, images)
        if stored is not None:
            return stored
        # A copy, because predictions are written into the samples of the batch.
        predictions = [kind.stored(sample) for sample in runner.teacher.test_step(copy.deepcopy(batch))]
        CACHE.add(self.teacher, images, predictions)
        return predictions

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics over all processes."""
        all_reduce(self.sums)
        if self.kind is not None and metrics is not None:
            metrics |= self.kind.metrics(self.sums)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights and of its settings for tests, such as a detector's score threshold."""
    digest = hashlib.sha256(str(getattr(model, "test_cfg", None)).encode())
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def image_key(sample: Any) -> str | None:
    """The path of a sample's image and the size at which the model saw it; None without a path."""
    path = getattr(sample, "img_path", None)
    return None if path is None else f"{path} {getattr(sample, 'img_shape', '')}"
