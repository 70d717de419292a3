"""Agreement of a quantized classifier with the float one."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ...errors import UsageError
from ...registry import HOOKS

# 33,000 images of 1,000 classes in float64.
CACHE_BYTES = 2**28


class ScoreCache:
    """Softmax scores of one teacher by image path, so that the rows of an ablation evaluate it once.

    Args:
        limit: Largest size in bytes; scores of further images are not stored.

    Attributes:
        teacher: :func:`fingerprint` of the teacher; another teacher replaces all scores.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit, self.teacher = limit, ""
        self._rows: dict[str, Tensor] = {}
        self._bytes = 0

    def find(self, teacher: str, paths: Sequence[str | None]) -> Tensor | None:
        """The stored scores of a batch, ``(images, classes)``; None unless those of all images are stored."""
        if teacher != self.teacher:
            return None
        rows = [self._rows[path] for path in paths if path is not None and path in self._rows]
        return torch.stack(rows) if len(rows) == len(paths) else None

    def add(self, teacher: str, paths: Sequence[str | None], scores: Tensor) -> None:
        """Store the scores of a batch, ``(images, classes)``; images without a path are left out."""
        if teacher != self.teacher:
            self.teacher, self._rows, self._bytes = teacher, {}, 0
        for path, row in zip(paths, scores, strict=True):
            if path is not None and path not in self._rows and self._bytes + row.nbytes <= self.limit:
                self._rows[path] = row.clone()
                self._bytes += row.nbytes


# Shared by all runners of the process.
CACHE = ScoreCache()


@HOOKS.register_module()
class AgreementHook(Hook):
    """Adds ``float/agreement`` and ``float/kl`` to a classifier's metrics.

    ::

        agreement = 100 / n * sum_i [argmax p_i = argmax q_i]        per cent
        kl        = 1 / n * sum_i sum_c p_ic (log p_ic - log q_ic)   nats

    with the softmax scores p of the teacher and q of the evaluated model on the same n images. Both need no labels, and
    differ between models that have the same top-1 accuracy on few images. They are left out when the teacher itself is
    evaluated.

    Raises:
        UsageError: The model has no class scores.
    """

    def __init__(self) -> None:
        self.teacher = ""

    def before_test_epoch(self, runner: Runner) -> None:
        """Reset the sums."""
        # number of images, number that agree, sum of the divergences
        self.sums = torch.zeros(3, dtype=torch.float64)

    @torch.no_grad()
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Compare the scores of a batch with the teacher's."""
        model = runner.bare_model()
        if model is runner.teacher or not outputs:
            return
        q = scores(outputs)
        p = self.teacher_scores(runner, data_batch or {}, [getattr(sample, "img_path", None) for sample in outputs])
        smallest = torch.finfo(torch.float64).tiny
        divergence = p * (p.clamp(min=smallest).log() - q.clamp(min=smallest).log())
        agrees = (p.argmax(1) == q.argmax(1)).sum()
        self.sums += torch.stack([torch.tensor(len(p)), agrees, divergence.sum()]).double()

    def teacher_scores(self, runner: Runner, batch: dict[str, Any], names: Sequence[str | None]) -> Tensor:
        """The teacher's scores of a batch, from the cache or computed, ``(images, classes)``."""
        if not self.teacher:
            self.teacher = fingerprint(runner.teacher)
        stored = CACHE.find(self.teacher, names)
        if stored is not None:
            return stored
        # A copy, because predictions are written into the samples of the batch.
        rows = scores(runner.teacher.test_step(copy.deepcopy(batch)))
        CACHE.add(self.teacher, names, rows)
        return rows

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics over all processes."""
        all_reduce(self.sums)
        images, agreed, divergence = self.sums.tolist()
        if images and metrics is not None:
            metrics |= {"float/agreement": 100 * agreed / images, "float/kl": divergence / images}


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def scores(samples: Sequence[Any]) -> Tensor:
    """The softmax scores of a batch's predictions, ``(images, classes)`` on the CPU.

    Raises:
        UsageError: The predictions have no class scores.
    """
    if not all(hasattr(sample, "pred_score") for sample in samples):
        raise UsageError("AgreementHook compares the class scores of classifiers: take it out of custom_hooks")
    p = torch.stack([sample.pred_score for sample in samples]).cpu().double()
    # In float32 the sum differs from 1 by more than the divergence of two similar distributions.
    return p / p.sum(1, keepdim=True)
