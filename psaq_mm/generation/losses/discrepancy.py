"""The discrepancy D between the outputs of teacher P and student Q, which the generator maximises.

In the teacher-student cycle of PSAQ-ViT V2 (Li et al., TNNLS 2023) the generator and the student play a min-max game
under the teacher's supervision::

    generator step:  minimise  L_PSE(x; P) + a L_TV(x) - b D(P(x), Q(x))    over images x
    student step:    minimise  D(P(x), Q(x))                                over Q

With the outputs ``t_l`` of the teacher and ``s_l`` of the student at level l, C = dimension 1::

    D = mean_l d(t_l, s_l)

    mae     d = mean |t_l - s_l| / c_l,    c_l = mean |t_l| on the first samples
    cosine  d = mean over positions of  1 - cos(t_l, s_l) over C
    kl      d = mean over positions of  T^2 KL(softmax(t_l / T) || softmax(s_l / T)) over C

The mean absolute error is the usual choice; the division by ``c_l`` and the other forms are ours, since V2's
constants are not public. Each form is a class in :mod:`psaq_mm.generation.losses.distances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import GenerationError
from .distances import DISTANCES


class Discrepancy(nn.Module):
    """The discrepancy ``D = mean_l d(t_l, s_l)``; the module's docstring has the forms of d.

    ``c_l`` is a constant: if it followed the samples, the generator could increase D by shrinking the teacher's
    features. Gradients flow to both sides.

    Example: t = [2, -2], s = [1, -2], c = 2, form ``mae``: D = 0.5 / 2 = 0.25.

    Args:
        form: Name of a registered :class:`LevelDistance`: ``"mae"``, ``"cosine"`` or ``"kl"``.
        temperature: T of ``kl``, positive; the other forms ignore it.
        **options: Further arguments of the form.

    Attributes:
        norms: The constants ``c_l``, shape ``(levels,)``, empty before :meth:`fit`; part of the state dict.

    Raises:
        GenerationError: The form is unknown, or the temperature is not positive.
    """

    norms: Tensor

    def __init__(self, form: str = "mae", temperature: float = 1.0, **options: Any) -> None:
        super().__init__()
        self.distance = DISTANCES.get(form)(temperature=temperature, **options)
        if not temperature > 0:
            raise GenerationError(f"temperature {temperature} must be positive")
        self.form, self.temperature = form, temperature
        self.register_buffer("norms", torch.empty(0))

    @property
    def fitted(self) -> bool:
        """Whether the constants ``c_l`` are known; only a normalised form such as ``mae`` needs them."""
        return self.norms.numel() > 0

    @torch.no_grad()
    def fit(self, teacher: Sequence[Tensor]) -> None:
        """Measures the constants ``c_l = mean |t_l|`` on the teacher's outputs for the first samples.

        Args:
            teacher: One tensor per level, any shapes.

        Raises:
            GenerationError: It is called twice or without levels, or a level is all zero or not finite.
        """
        if self.fitted:
            raise GenerationError("the levels' constants are measured once: make a new Discrepancy to change them")
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
            GenerationError: Levels or shapes differ, or a normalised form has not been fitted.
        """
        self._check(teacher, student)
        terms = [self.distance(t, s) for t, s in zip(teacher, student, strict=True)]
        if self.distance.normalized:
            terms = [term / c for term, c in zip(terms, self.norms.unbind(), strict=True)]
        return torch.stack(terms).mean()

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"form={self.form!r}, temperature={self.temperature:g}, fitted={self.fitted}"

    def _check(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> None:
        if not teacher or len(teacher) != len(student):
            raise GenerationError(
                f"{len(teacher)} teacher and {len(student)} student levels: pass equal numbers, at least 1"
            )
        for index, (t, s) in enumerate(zip(teacher, student, strict=True)):
            if t.shape != s.shape or t.dim() < 2:
                raise GenerationError(
                    f"level {index} is {tuple(t.shape)} in the teacher and {tuple(s.shape)} in the student: "
                    "pass equal shapes (batch, channels, ...)"
                )
        if self.distance.normalized and not self.fitted:
            raise GenerationError("the levels' constants are unknown: call fit(teacher outputs) on the first samples")
        if self.distance.normalized and len(self.norms) != len(teacher):
            raise GenerationError(
                f"fitted on {len(self.norms)} levels, called with {len(teacher)}: pass the same levels"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The number of levels is not known when the module is built, and torch refuses to load another shape.
        saved = state_dict.get(f"{prefix}norms")
        if saved is not None:
            self.norms = self.norms.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
