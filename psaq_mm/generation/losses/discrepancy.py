"""How far the student's outputs are from the teacher's: what the generator widens and the student closes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import GenerationError

FORMS = ("mae", "cosine", "kl")


class FeatureDistance(nn.Module):
    """The discrepancy D between two lists of outputs, level by level.

    The V2 abstract speaks of a competition under the teacher's supervision; D as the mean absolute error is the usual
    form, the division by level and the other forms are ours. With teacher t and student s, C = dimension 1::

        mae     mean_l  mean |t_l - s_l| / c_l             c_l = mean |t_l|, measured once by ``fit``
        cosine  mean_l  mean over positions of  1 - cos(t, s) over C
        kl      mean_l  mean over positions of  T^2 KL(softmax(t / T) || softmax(s / T)) over C

    ``c_l`` is a constant because a generator that could move it would shrink the teacher's features instead of
    finding disagreement. ``T^2`` keeps the gradient's size under a temperature (Hinton et al., 2015). All forms are
    means over the batch, so micro-batches weighted by their size add up to the whole. Gradients flow to both sides.

    Example: t = [2, -2], s = [1, -2], c = 2: mae = 0.5 / 2 = 0.25.

    Args:
        form: ``"mae"`` for feature maps, ``"cosine"``, or ``"kl"`` for logits.
        temperature: T of ``kl``, positive; the other forms ignore it.

    Attributes:
        norms: The constants ``c_l``, shape ``(levels,)``, empty before :meth:`fit`; part of the state dict.

    Raises:
        GenerationError: Unknown form or a temperature that is not positive.
    """

    norms: Tensor

    def __init__(self, form: str = "mae", temperature: float = 1.0) -> None:
        super().__init__()
        if form not in FORMS:
            raise GenerationError(f"form {form!r} is unknown: choose one of {', '.join(FORMS)}")
        if not temperature > 0:
            raise GenerationError(f"temperature {temperature} must be positive")
        self.form, self.temperature = form, temperature
        self.register_buffer("norms", torch.empty(0))

    @property
    def fitted(self) -> bool:
        """Whether the levels' constants are known; only ``mae`` needs them."""
        return self.norms.numel() > 0

    @torch.no_grad()
    def fit(self, teacher: Sequence[Tensor]) -> None:
        """Measures the constants ``c_l`` on the teacher's outputs for the first samples.

        Args:
            teacher: One tensor per level, any shapes.

        Raises:
            GenerationError: Called twice, without levels, or a level is zero or not finite throughout.
        """
        if self.fitted:
            raise GenerationError("the levels' constants are measured once: make a new FeatureDistance to change them")
        if not teacher:
            raise GenerationError("the teacher has no outputs: name at least one level to compare")
        norms = torch.stack([level.float().abs().mean() for level in teacher])
        for index, norm in enumerate(norms.tolist()):
            if not 0 < norm < float("inf"):
                raise GenerationError(f"level {index} of the teacher has mean absolute value {norm}: leave it out")
        self.norms = norms

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """D, a scalar, 0 for equal outputs.

        Args:
            teacher: One tensor per level, shape ``(batch, channels, ...)``.
            student: The same shapes.

        Raises:
            GenerationError: Levels or shapes differ, or ``mae`` has not been fitted.
        """
        self._check(teacher, student)
        if self.form == "mae":
            norms = self.norms.unbind()
            terms = [F.l1_loss(s, t) / c for t, s, c in zip(teacher, student, norms, strict=True)]
        else:
            distance = self._cosine if self.form == "cosine" else self._kl
            terms = [distance(t, s) for t, s in zip(teacher, student, strict=True)]
        return torch.stack(terms).mean()

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"form={self.form!r}, temperature={self.temperature:g}, fitted={self.fitted}"

    def _check(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> None:
        if not teacher or len(teacher) != len(student):
            raise GenerationError(
                f"{len(teacher)} teacher and {len(student)} student levels: hand the same, at least 1"
            )
        for index, (t, s) in enumerate(zip(teacher, student, strict=True)):
            if t.shape != s.shape or t.dim() < 2:
                raise GenerationError(
                    f"level {index} is {tuple(t.shape)} in the teacher and {tuple(s.shape)} in the student: "
                    "hand equal shapes (batch, channels, ...)"
                )
        if self.form == "mae" and not self.fitted:
            raise GenerationError("the levels' constants are unknown: call fit(teacher outputs) on the first samples")
        if self.form == "mae" and len(self.norms) != len(teacher):
            raise GenerationError(
                f"fitted on {len(self.norms)} levels, called with {len(teacher)}: hand the same levels"
            )

    @staticmethod
    def _cosine(teacher: Tensor, student: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(teacher, student, dim=1).mean()

    def _kl(self, teacher: Tensor, student: Tensor) -> Tensor:
        log_p = F.log_softmax(teacher / self.temperature, dim=1)
        log_q = F.log_softmax(student / self.temperature, dim=1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)  # (batch, channels, ...) -> (batch, ...)
        return self.temperature**2 * divergence.mean()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The number of levels is not known when the module is built, and torch refuses to load another shape.
        saved = state_dict.get(f"{prefix}norms")
        if saved is not None:
            self.norms = self.norms.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
