"""Quantizers as modules: the states they go through and what a checkpoint holds of them."""

from __future__ import annotations

import enum
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import QuantizationError
from .functional import affine_parameters, decibels, fake_quantize, migrated_range, powers, usable_scale
from .observers import Observer, make_observer, rows_of
from .spec import QuantSpec


class State(enum.Enum):
    """Where a quantizer stands.

    ::

        UNCALIBRATED --observe--> OBSERVING --calibrate--> CALIBRATED --freeze--> FROZEN
                                                               ^------unfreeze------'

    ``reset`` and ``observe`` are allowed in every state; loading a calibrated checkpoint leads to CALIBRATED.
    """

    UNCALIBRATED = "uncalibrated"
    OBSERVING = "observing"
    CALIBRATED = "calibrated"
    FROZEN = "frozen"


class Quantizer(nn.Module):
    """Fake-quantizes an activation with a range found by calibration, then learnable.

    The state dict holds ``scale``, ``zero_point``, ``quant_min``, ``quant_max``, ``range_min``, ``range_max``,
    ``initialized`` and ``sqnr_db`` (NaN while unknown), enough to run, check and report a checkpoint without samples.
    Those with one value per scale have shape ``(1,)`` per tensor and, from calibration on, ``(channels,)`` per channel.

    Attributes:
        enabled: Off, the quantizer is the identity in every state.
        state: See ``State``; change it through the methods.
        record: While on, each quantizing forward adds to the SQNR. Turning it on starts a new measurement.

    Args:
        spec: Grid, granularity and range estimator.
        name: What error messages call it, e.g. ``'backbone.blocks.0.fc1.input_quantizer'``.
    """

    scale: nn.Parameter
    zero_point: nn.Parameter
    quant_min: Tensor
    quant_max: Tensor
    range_min: Tensor
    range_max: Tensor
    initialized: Tensor
    sqnr_db: Tensor

    # What has one value per scale, hence takes its shape from calibration or the checkpoint.
    _per_scale: tuple[str, ...] = ("scale", "zero_point", "range_min", "range_max")

    def __init__(self, spec: QuantSpec, name: str = "") -> None:
        super().__init__()
        self.spec = spec
        self.name = name
        self.enabled = True
        self.state = State.UNCALIBRATED
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.zero_point = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_buffer("quant_min", torch.tensor(spec.quant_min))
        self.register_buffer("quant_max", torch.tensor(spec.quant_max))
        self.register_buffer("range_min", torch.zeros(1))
        self.register_buffer("range_max", torch.zeros(1))
        self.register_buffer("initialized", torch.tensor(False))
        self.register_buffer("sqnr_db", torch.tensor(torch.nan))
        self._observer: Observer | None = None
        self._record = False
        self._powers: tuple[Tensor, Tensor] | None = None

    @property
    def record(self) -> bool:
        """Whether forward measures the SQNR."""
        return self._record

    @record.setter
    def record(self, on: bool) -> None:
        self._record = on
        if on:
            self._powers = None

    @property
    def sqnr(self) -> float | None:
        """The SQNR in dB over what was recorded (or stored in the checkpoint); None while unknown."""
        value = float(self.sqnr_db)
        return None if math.isnan(value) else value

    @property
    def has_data(self) -> bool:
        """Whether the running observation saw a batch."""
        return self._observer is not None and self._observer.batches > 0

    def reset(self) -> None:
        """Forgets the calibration: back to UNCALIBRATED."""
        self._observer = None
        self.initialized.fill_(False)
        self.sqnr_db.fill_(torch.nan)
        self._enter(State.UNCALIBRATED)

    def observe(self) -> None:
        """Starts observing from nothing: forward returns its input and updates the range."""
        self.reset()
        self._observer = make_observer(self.spec)
        self._enter(State.OBSERVING)

    def reduce(self) -> None:
        """Merges what was observed with what the same quantizer of every other process did; all must have data."""
        if self._observer is not None:
            self._observer.reduce()

    def calibrate(self) -> None:
        """Turns what was observed into scale and zero point.

        Raises:
            QuantizationError: The quantizer isn't observing, or no batch reached it.
        """
        if self._observer is None:
            raise QuantizationError(f"{self._label()} is {self.state.value}: call observe() before calibrate()")
        if not self.has_data:
            raise QuantizationError(f"{self._label()} saw no data: run the model on calibration samples first")
        low, high = self._observer.range()
        self._observer = None
        if self.spec.per_channel and self.spec.migration < 1:
            low, high = migrated_range(low, high, self.spec.migration)
        self._set_range(low, high)
        self._enter(State.CALIBRATED)

    def freeze(self) -> None:
        """Fixes scale and zero point, as the forward pass takes them; freezing twice changes nothing.

        Raises:
            QuantizationError: The quantizer isn't calibrated.
        """
        self._require_calibrated()
        self._assign("scale", usable_scale(self.scale))
        self._enter(State.FROZEN)

    def unfreeze(self) -> None:
        """Makes scale and zero point learnable again.

        Raises:
            QuantizationError: The quantizer isn't calibrated.
        """
        self._require_calibrated()
        self._enter(State.CALIBRATED)

    def forward(self, x: Tensor) -> Tensor:
        """Quantizes ``x`` (any shape) to the grid and back; see the class and ``State`` for when it doesn't.

        Raises:
            QuantizationError: The quantizer isn't calibrated, or an observed batch isn't usable.
        """
        if not self.enabled:
            return x
        if self._observer is not None:
            self._update(self._observer, x)
            return x
        self._require_calibrated()
        y = fake_quantize(x, self.scale, self.zero_point, self.spec)
        if self._record:
            self._add_powers(x, y)
        return y

    def extra_repr(self) -> str:
        """The grid and the state, for ``print(model)``."""
        grid = f"[{self.spec.quant_min}, {self.spec.quant_max}]"
        return f"{self.spec.bits} bits {grid}, {self.spec.granularity}, {self.spec.range}, {self.state.value}"

    def _label(self) -> str:
        return f"quantizer {self.name!r}"

    def _enter(self, state: State) -> None:
        self.state = state
        learnable = state is State.CALIBRATED and not self.spec.log2
        self.scale.requires_grad_(learnable)
        self.zero_point.requires_grad_(learnable and not self.spec.symmetric)

    def _require_calibrated(self) -> None:
        if self.state not in (State.CALIBRATED, State.FROZEN):
            raise QuantizationError(
                f"{self._label()} is {self.state.value}: calibrate the model or load a calibrated checkpoint"
            )

    def _update(self, observer: Observer, x: Tensor) -> None:
        try:
            observer.update(x.detach())
        except QuantizationError as error:
            raise QuantizationError(f"{self._label()}: {error}") from None

    def _set_range(self, low: Tensor, high: Tensor) -> None:
        scale, zero_point = affine_parameters(low, high, self.spec)
        values = {"scale": scale, "zero_point": zero_point, "range_min": low, "range_max": high}
        for name, value in values.items():
            self._assign(name, value)
        self.initialized.fill_(True)

    @torch.no_grad()
    def _assign(self, name: str, value: Tensor) -> None:
        # In place, so that optimizers keep hold of a parameter even when calibration changes its shape.
        own = getattr(self, name)
        if own.shape != value.shape:
            own.data = own.new_empty(value.shape)
        own.copy_(value)

    @torch.no_grad()
    def _add_powers(self, x: Tensor, y: Tensor) -> None:
        signal, noise = powers(x, y)
        if self._powers is not None:
            signal, noise = signal + self._powers[0], noise + self._powers[1]
        self._powers = signal, noise
        self.sqnr_db.copy_(decibels(signal, noise))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Checks the grid, adopts the checkpoint's shapes, loads, and sets the state.

        A mismatch raises instead of being added to the errors: mmengine loads non-strictly and only logs those.
        A checkpoint without this quantizer (a float one) leaves it as it is and counts nothing as missing.
        """
        if not any(prefix + key in state_dict for key in (*self._per_scale, "initialized")):
            return
        self.name = self.name or prefix.rstrip(".")
        self._check_grid(state_dict, prefix)
        for name in self._per_scale:
            if prefix + name in state_dict:
                own, shape = getattr(self, name), state_dict[prefix + name].shape
                if not self.spec.per_channel and shape.numel() != 1:
                    raise QuantizationError(
                        f"{self._label()} is per tensor, the checkpoint has {shape.numel()} values of {name}: "
                        "build the model with the checkpoint's quantization"
                    )
                own.data = own.new_zeros(shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._observer = None
        self._enter(State.CALIBRATED if bool(self.initialized) else State.UNCALIBRATED)

    def _check_grid(self, state_dict: dict[str, Any], prefix: str) -> None:
        keys = prefix + "quant_min", prefix + "quant_max"
        if not all(key in state_dict for key in keys):
            raise QuantizationError(
                f"{self._label()}: the checkpoint has no quant_min and quant_max, it can't be checked"
            )
        theirs = int(state_dict[keys[0]]), int(state_dict[keys[1]])
        ours = self.spec.quant_min, self.spec.quant_max
        if theirs != ours:
            # A narrow grid has 2^b - 1 integers, a full one 2^b: the bit length of max - min is b for both.
            bits = (theirs[1] - theirs[0]).bit_length()
            raise QuantizationError(
                f"{self._label()}: the checkpoint has {bits} bits {list(theirs)}, the model {self.spec.bits} bits "
                f"{list(ours)}: build the model with the checkpoint's quantization or load another checkpoint"
            )


class WeightQuantizer(Quantizer):
    """Fake-quantizes a weight; its scale follows the weight while it is trained.

    At each forward while CALIBRATED, without a gradient of its own::

        scale = clip_ratio * max |weight| / quant_max

    with the maximum over each output channel. ``clip_ratio`` (a buffer) is found once by the spec's range estimator: 1
    for min-max, below for others. While FROZEN the stored scale is used. Weights inside the range get the
    straight-through gradient 1, those that the ratio clips get 0.

    Args:
        spec: A symmetric spec, e.g. ``weight_spec(8)``.
        name: What error messages call it.

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
        """Finds ``clip_ratio`` and the scale from the weight itself; no batches are needed.

        Args:
            weight: Any shape that has the spec's axis.

        Raises:
            QuantizationError: The weight is empty or holds NaN or infinity.
        """
        self.reset()
        observer = make_observer(self.spec)
        self._update(observer, weight)
        low, high = observer.range()
        limit = _largest(weight, self.spec)
        # A channel of zeros has no ratio: keep all of it.
        self._assign("clip_ratio", torch.where(limit > 0, torch.maximum(-low, high) / limit, 1.0).clamp(0, 1))
        self._enter(State.CALIBRATED)
        self.refresh(weight)

    def observe(self) -> None:
        """Not for weights.

        Raises:
            QuantizationError: Always; a weight is known without batches.
        """
        raise QuantizationError(f"{self._label()} needs no batches: call calibrate_from(weight)")

    @torch.no_grad()
    def keep_scale(self, weight: Tensor) -> None:
        """Adapts ``clip_ratio`` so that the scale stays what it is, for a weight that was changed from outside."""
        limit = _largest(weight, self.spec)
        ratio = self.scale.detach() * self.spec.quant_max / limit
        self._assign("clip_ratio", torch.where(limit > 0, ratio, self.clip_ratio))

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Recomputes the scale from the weight; does nothing unless CALIBRATED."""
        if self.state is State.CALIBRATED:
            limit = self.clip_ratio * _largest(weight, self.spec)
            self._set_range(-limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        """Quantizes the weight ``x`` to the grid and back.

        Raises:
            QuantizationError: The quantizer isn't calibrated.
        """
        if self.enabled:
            self.refresh(x)
        return super().forward(x)

    def _enter(self, state: State) -> None:
        self.state = state


def _largest(weight: Tensor, spec: QuantSpec) -> Tensor:
    """The largest magnitude for each scale."""
    return torch.linalg.vector_norm(rows_of(weight, spec), torch.inf, dim=1)
