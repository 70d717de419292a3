"""The quantizer of an activation as a module: its states and what it stores in a checkpoint."""

from __future__ import annotations

import enum
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import QuantizationError
from .functional import affine_parameters, decibels, fake_quantize, migrated_range, powers, usable_scale
from .observers import Observer, make_observer
from .spec import QuantSpec
from .transforms.rotation import rotated, rotated_back


class State(enum.Enum):
    """The state of a quantizer.

    ::

        UNCALIBRATED --observe--> OBSERVING --calibrate--> CALIBRATED --freeze--> FROZEN
                                                               ^------unfreeze------'

    ``reset`` and ``observe`` are allowed in every state. Loading a calibrated checkpoint leads to CALIBRATED.
    """

    UNCALIBRATED = "uncalibrated"
    OBSERVING = "observing"
    CALIBRATED = "calibrated"
    FROZEN = "frozen"


class Quantizer(nn.Module):
    """Fake-quantizes an activation. Calibration estimates its range; scale and zero point are learnable afterwards.

    The state dict contains ``scale``, ``zero_point``, ``quant_min``, ``quant_max``, ``range_min``, ``range_max``,
    ``initialized`` and ``sqnr_db`` (NaN while unknown), so that a checkpoint can be run, checked and reported without
    samples. Entries with one value per scale have shape ``(1,)`` per tensor and, once calibrated, ``(channels,)`` per
    channel. Where the spec has a rotation, they belong to the rotated values, and ``rotated`` is in the state dict too.

    Attributes:
        enabled: If False, the quantizer returns its input, in every state.
        state: See ``State``; changed by the methods only.
        record: While True, each quantizing forward adds to the SQNR. Setting it to True starts a new measurement.

    Args:
        spec: Grid, granularity and range estimator.
        name: The quantizer's name in error messages, e.g. ``'backbone.blocks.0.fc1.input_quantizer'``.
    """

    scale: nn.Parameter
    zero_point: nn.Parameter
    quant_min: Tensor
    quant_max: Tensor
    range_min: Tensor
    range_max: Tensor
    initialized: Tensor
    sqnr_db: Tensor

    # Entries with one value per scale: calibration or the checkpoint determines their shape.
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
        if spec.rotation_axis is not None:
            self.register_buffer("rotated", torch.tensor(True))
        self._observer: Observer | None = None
        self._record = False
        self._powers: tuple[Tensor, Tensor] | None = None

    @property
    def record(self) -> bool:
        """Whether ``forward`` measures the SQNR."""
        return self._record

    @record.setter
    def record(self, on: bool) -> None:
        self._record = on
        if on:
            self._powers = None

    @property
    def sqnr(self) -> float | None:
        """The SQNR in dB over the recorded batches, or the one loaded from a checkpoint; None while unknown."""
        value = float(self.sqnr_db)
        return None if math.isnan(value) else value

    @property
    def has_data(self) -> bool:
        """Whether the quantizer is observing and has observed a batch."""
        return self._observer is not None and self._observer.batches > 0

    def reset(self) -> None:
        """Discards the calibration; the state becomes UNCALIBRATED."""
        self._observer = None
        self.initialized.fill_(False)
        self.sqnr_db.fill_(torch.nan)
        self._enter(State.UNCALIBRATED)

    def observe(self) -> None:
        """Starts a new observation: ``forward`` returns its input and updates the range."""
        self.reset()
        self._observer = make_observer(self.spec)
        self._enter(State.OBSERVING)

    def all_reduce(self) -> None:
        """Merges the observed range with those of the same quantizer in all other processes; all must have data."""
        if self._observer is not None:
            self._observer.all_reduce()

    def calibrate(self) -> None:
        """Computes scale and zero point from the observed range.

        Raises:
            QuantizationError: The quantizer isn't observing, or has observed no batch.
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
        """Fixes scale and zero point at the values that ``forward`` uses; freezing twice has no further effect.

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
        """Fake-quantizes ``x``; while disabled or observing, returns ``x`` itself.

        With a rotation H, the result is ``fake_quantize(x H) H^T``.

        Args:
            x: Any shape; with a spec per channel, ``x.shape[spec.axis]`` is the number of channels.

        Returns:
            Tensor of the shape and type of ``x``.

        Raises:
            QuantizationError: The quantizer isn't calibrated, or an observed batch is empty or not finite.
        """
        if not self.enabled:
            return x
        axis = self.spec.rotation_axis
        values = x if axis is None else rotated(x, axis)
        if self._observer is not None:
            self._update(self._observer, values)
            return x
        self._require_calibrated()
        y = fake_quantize(values, self.scale, self.zero_point, self.spec)
        if self._record:
            self._add_powers(values, y)
        return y if axis is None else rotated_back(y, axis)

    def extra_repr(self) -> str:
        """Grid, observer and state, for ``print(model)``."""
        grid = f"[{self.spec.quant_min}, {self.spec.quant_max}]"
        return f"{self.spec.bits} bits {grid}, {self.spec.granularity}, {self.spec.observer}, {self.state.value}"

    def _label(self) -> str:
        return f"quantizer {self.name!r}"

    def _enter(self, state: State) -> None:
        self.state = state
        learnable = state is State.CALIBRATED and not self.spec.logarithmic
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
        # In place: a parameter that is in an optimizer stays the same object when calibration changes its shape.
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
        """Checks the grid, takes over the checkpoint's shapes, loads, and sets the state.

        A mismatch raises at once and is not added to the list of errors: mmengine loads non-strictly and only logs that
        list. A checkpoint without this quantizer (a float one) leaves it unchanged and reports no missing keys.
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
                f"{self._label()}: the checkpoint has no quant_min and quant_max, so its grid can't be checked: "
                "load a checkpoint written by this package"
            )
        theirs_rotated, ours_rotated = prefix + "rotated" in state_dict, self.spec.rotation_axis is not None
        if theirs_rotated != ours_rotated:
            raise QuantizationError(
                f"{self._label()}: the checkpoint has {'a' if theirs_rotated else 'no'} rotation, the model "
                f"{'has one' if ours_rotated else 'has none'}: build the model with the checkpoint's quantization"
            )
        theirs = int(state_dict[keys[0]]), int(state_dict[keys[1]])
        ours = self.spec.quant_min, self.spec.quant_max
        if theirs != ours:
            # A narrow range has 2^b - 1 integers, a full one 2^b: the bit length of max - min is b for both.
            bits = (theirs[1] - theirs[0]).bit_length()
            raise QuantizationError(
                f"{self._label()}: the checkpoint has {bits} bits {list(theirs)}, the model {self.spec.bits} bits "
                f"{list(ours)}: build the model with the checkpoint's quantization or load another checkpoint"
            )
