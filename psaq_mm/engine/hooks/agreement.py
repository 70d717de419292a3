"""How often the quantized classifier says what the float one says."""

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

# What a teacher of some weights said of an image: the rows of an ablation ask it all the same questions.
KNOWN: dict[tuple[str, str | None], Tensor] = {}


@HOOKS.register_module()
class AgreementHook(Hook):
    """Adds ``float/agreement`` and ``float/kl`` to a classifier's figures.

    ::

        agreement = 100 / n * sum_i [argmax p_i = argmax q_i]        per cent
        kl        = 1 / n * sum_i sum_c p_ic (log p_ic - log q_ic)   nats

    with the softmax scores p of the teacher and q of the evaluated model on the same n images. Both need no labels, and
    tell apart what top-1 on few images does not. They are left out where the teacher itself is evaluated.

    Raises:
        UsageError: The model gives no class scores.
    """

    def __init__(self) -> None:
        self.teacher = ""

    def before_test_epoch(self, runner: Runner) -> None:
        """Start counting."""
        # images, those that agree, sum of the divergences
        self.sums = torch.zeros(3, dtype=torch.float64)

    @torch.no_grad()
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Ask the teacher about the same batch."""
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
        """The teacher's scores; an image that it has seen in another run of this process is not shown again."""
        if not self.teacher:
            self.teacher = fingerprint(runner.teacher)
        keys = [(self.teacher, name) for name in names]
        if not all(key in KNOWN for key in keys):
            # A copy: predictions are written into the batch's own samples.
            rows = scores(runner.teacher.test_step(copy.deepcopy(batch)))
            if None in names:
                return rows
            KNOWN.update(zip(keys, rows, strict=True))
        return torch.stack([KNOWN[key] for key in keys])

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the figures of all processes."""
        all_reduce(self.sums)
        images, agreed, divergence = self.sums.tolist()
        if images and metrics is not None:
            metrics |= {"float/agreement": 100 * agreed / images, "float/kl": divergence / images}


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def scores(samples: Sequence[Any]) -> Tensor:
    """The softmax scores of a batch's predictions, ``(images, classes)`` on the CPU.

    Raises:
        UsageError: There are none.
    """
    if not all(hasattr(sample, "pred_score") for sample in samples):
        raise UsageError("AgreementHook compares the class scores of classifiers: take it out of custom_hooks")
    p = torch.stack([sample.pred_score for sample in samples]).cpu().double()
    # float32 scores miss a sum of 1 by more than two alike distributions diverge
    return p / p.sum(1, keepdim=True)
