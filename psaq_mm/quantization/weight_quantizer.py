"""The quantizer of a weight."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import QuantizationError
from .observers import make_observer, rows_of
from .quantizer import Quantizer, State
from .spec import QuantSpec


class WeightQuantizer(Quantizer):
    """Fake-quantizes a weight. Its scale is recomputed from the weight, which training changes.

    At each forward while CALIBRATED, without a gradient for the scale::

        scale = clip_ratio * max |weight| / quant_max

    with the maximum over each output channel. ``clip_ratio`` (a buffer) is determined once by the spec's observer: 1
    for ``'minmax'``, at most 1 for the others. While FROZEN the stored scale is used. The straight-through gradient is
    1 for weights inside the range and 0 for weights that the ratio clips.

    Args:
        spec: A symmetric spec, e.g. ``weight_spec(8)``.
        name: The quantizer's name in error messages.

    Raises:
        QuantizationError: The spec is asymmetric.
    """

    clip_ratio: Tensor
    _per_scale = (*Quantizer._per_scale, "clip_ratio")

    def __init__(self, spec: QuantSpec, name: str = "") -> None:
        super().__init__(spec, name)
        if not spec.symmetric:
            raise QuantizationError(f"{self._label()}: weights need a symmetric spec: use weight_spec(bits)")
        self.register_buffer("clip_ratio", torch.ones(1))

    @torch.no_grad()
    def calibrate_from(self, weight: Tensor) -> None:
        """Determines ``clip_ratio`` and the scale from the weight itself; no calibration batches are needed.

        Args:
            weight: Any shape that has the spec's axis.

        Raises:
            QuantizationError: The weight is empty or contains NaN or infinity.
        """
        self.reset()
        observer = make_observer(self.spec)
        self._update(observer, weight)
        low, high = observer.range()
        limit = largest_magnitude(weight, self.spec)
        # The ratio of a channel of zeros is undefined: it is not clipped.
        self._assign("clip_ratio", torch.where(limit > 0, torch.maximum(-low, high) / limit, 1.0).clamp(0, 1))
        self._enter(State.CALIBRATED)
        self.refresh(weight)

    def observe(self) -> None:
        """Not available: a weight is calibrated without batches.

        Raises:
            QuantizationError: Always.
        """
        raise QuantizationError(f"{self._label()} needs no batches: call calibrate_from(weight)")

    @torch.no_grad()
    def keep_scale(self, weight: Tensor) -> None:
        """Adapts ``clip_ratio`` to a changed weight so that the scale stays the same.

        Args:
            weight: The new weight, of the shape that the quantizer was calibrated with.
        """
        limit = largest_magnitude(weight, self.spec)
        ratio = self.scale.detach() * self.spec.quant_max / limit
        self._assign("clip_ratio", torch.where(limit > 0, ratio, self.clip_ratio))

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Recomputes the scale from the weight; has no effect unless CALIBRATED."""
        if self.state is State.CALIBRATED:
            limit = self.clip_ratio * largest_magnitude(weight, self.spec)
            self._set_range(-limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantizes the weight ``x``, with the scale recomputed from it while CALIBRATED.

        Raises:
            QuantizationError: The quantizer isn't calibrated.
        """
        if self.enabled:
            self.refresh(x)
        return super().forward(x)

    def _enter(self, state: State) -> None:
        # Neither scale nor zero point is learnable.
        self.state = state


def largest_magnitude(weight: Tensor, spec: QuantSpec) -> Tensor:
    """``max |weight|`` for each scale: shape ``(1,)`` per tensor, ``(channels,)`` per channel."""
    largest: Tensor = torch.linalg.vector_norm(rows_of(weight, spec), torch.inf, dim=1)
    return largest
