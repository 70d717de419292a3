"""Quantization policy: which module gets which specs, as one immutable value that can be stored in a config."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from ..errors import QuantizationError
from .spec import MAX_BITS, MIN_BITS, QuantSpec, activation_spec, weight_spec

SCHEMES = ("deploy", "paper")
ROTATIONS = ("none", "hadamard")
# Values and keys in configs and checkpoints of earlier versions.
_OLD_SCHEME = "psaq"
_OLD_KEYS = {"weight_range": "weight_observer", "activation_range": "activation_observer"}
_TUNABLE = (
    "weight_bits",
    "activation_bits",
    "weight_observer",
    "activation_observer",
    "percentile",
    "norm_inputs",
    "norm_migration",
    "softmax_grid",
    "softmax_granularity",
    "qk_migration",
    "rotation",
)
_OVERRIDE_KEYS = ("pattern", "bits", "keep_fp", "reason", *_TUNABLE)


@dataclass(frozen=True)
class LayerSpecs:
    """The specs of one module.

    Attributes:
        weight: Spec of the weight.
        activation: Spec of the activations, except for the two kinds below.
        norm_input: Spec of an input that is the output of a LayerNorm.
        softmax: Spec of the softmax output that is an operand of an attention product.
        softmax_rows: Whether each row of the softmax output is divided by its maximum before it is quantized.
        qk_migration: How far the ranges of the keys' channels are moved to the queries, 0 to 1.
        rotation: ``'hadamard'`` or ``'none'``.
    """

    weight: QuantSpec
    activation: QuantSpec
    norm_input: QuantSpec
    softmax: QuantSpec
    softmax_rows: bool
    qk_migration: float = 0.0
    rotation: str = "none"

    def rotated(self, axis: int = -1) -> QuantSpec:
        """The spec of an activation that is summed over the channels of ``axis``, or of an attention's values."""
        return replace(self.activation, rotation_axis=axis) if self.rotation == "hadamard" else self.activation


@dataclass(frozen=True)
class QuantPolicy:
    """Bits and observers of a model, with exceptions by module name.

    An override is a mapping with a ``pattern`` (as in ``fnmatch``, where ``*`` also matches dots) and any of ``bits``
    (weights and activations), ``weight_bits``, ``activation_bits``, ``weight_observer``, ``activation_observer``,
    ``percentile``, ``norm_inputs``, ``norm_migration``, ``softmax_grid``, ``softmax_granularity``, ``qk_migration``,
    ``rotation`` and ``keep_fp``, and ``reason``, which the coverage report gives for modules that are kept FP. A
    pattern that matches a module also covers its descendants. For each key, the last matching override applies.

    Example::

        QuantPolicy(weight_bits=4, overrides=[
            {'pattern': 'backbone.patch_embed', 'bits': 8},
            {'pattern': '*.stages.3.*', 'keep_fp': True},
        ])

    Args:
        weight_bits: 2 to 8.
        activation_bits: 2 to 8.
        scheme: ``'deploy'``: the operands of every Linear, Conv and attention product, which INT8 engines run.
            ``'paper'``: also the tensors between them that PSAQ-ViT quantizes (residual sums, GELU output, bias
            tables); the adapters add these quantizers. ``'psaq'``, its old name, is replaced by ``'paper'``.
        weight_observer: Range estimator of weights, see ``QuantSpec.observer``.
        activation_observer: Range estimator of activations.
        percentile: Per cent of the values that the percentile observer clips on each side.
        overrides: Exceptions, see above.
        norm_inputs: ``'per_tensor'``, or ``'per_channel'``: inputs that are the output of a LayerNorm have one scale
            per channel, which is merged into gamma, beta and the next weight (see
            ``QuantizedLayer.input_channel_scale``), so that they are deployed with one scale. The adapters define which
            inputs these are.
        norm_migration: How far these scales follow the ranges of their channels, 0 to 1. At 1 each channel has its own
            range (RepQ-ViT); below 1 the scales are those of SmoothQuant (see ``migrated_range``).
        softmax_grid: Grid of the softmax output, ``'uniform'``, ``'log2'`` or ``'log_sqrt2'`` (see ``QuantSpec``).
        softmax_granularity: ``'per_tensor'``, or ``'per_row'``: each row of the softmax output is divided by its
            maximum before it is quantized, and the product is multiplied by the maximum. Rows with nearly equal
            probabilities (1 / n each) then use as many steps as rows with one large probability, and the integers still
            have one scale.
        qk_migration: How far the ranges of the channels of keys are moved to those of queries before both are
            quantized, 0 to 1 (see :func:`.equalization.channel_ratio`). Keys have few channels that are much larger
            than the others, and one scale. The adapters say which attentions have this.
        rotation: ``'none'``, or ``'hadamard'``: the channels of the inputs of Linear layers, and of queries, keys and
            values, are multiplied by Hadamard matrices before they are quantized (see
            :func:`.transforms.rotation.rotated`), so that no channel needs a much larger range than the others. The
            mean of each channel is subtracted from the keys before. For 4 bits and fewer: a deployed model computes the
            rotations in float. Scheme ``'deploy'`` only. The adapters say in which attentions queries, keys and values
            are rotated.
        first_layer: Precision of the layer that reads the image: bits of its weight and its input, ``'float'``, or None
            for that of other layers. The library of models says which layer this is; overrides take precedence.
        last_layers: Precision of the layers that compute class scores, box deltas and masks, in a model that is
            quantized as a whole: bits of their weights and activations, ``'float'``, or None for that of other layers.
            The library of models says which layers these are; overrides take precedence.

    Raises:
        QuantizationError: A value or a key of an override isn't valid.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    scheme: str = "deploy"
    weight_observer: str = "minmax"
    activation_observer: str = "minmax"
    percentile: float = 0.05
    overrides: Sequence[Mapping[str, Any]] = ()
    norm_inputs: str = "per_tensor"
    norm_migration: float = 1.0
    softmax_grid: str = "uniform"
    softmax_granularity: str = "per_tensor"
    qk_migration: float = 0.0
    rotation: str = "none"
    first_layer: int | str | None = None
    last_layers: int | str | None = None

    def __post_init__(self) -> None:
        if self.scheme == _OLD_SCHEME:
            object.__setattr__(self, "scheme", "paper")
        if self.scheme not in SCHEMES:
            raise QuantizationError(f"scheme={self.scheme!r} is unknown: use one of {SCHEMES}")
        if isinstance(self.overrides, str) or not all(isinstance(override, Mapping) for override in self.overrides):
            raise QuantizationError(
                f"overrides={self.overrides!r} is no list of dict(pattern=..., bits=...): write one dict per exception"
            )
        object.__setattr__(self, "overrides", tuple(_checked(override) for override in self.overrides))
        if self.softmax_granularity not in ("per_tensor", "per_row"):
            raise QuantizationError(
                f"softmax_granularity={self.softmax_granularity!r} is unknown: use 'per_tensor' or 'per_row'"
            )
        if not 0 <= self.qk_migration <= 1:
            raise QuantizationError(f"qk_migration={self.qk_migration!r} is not valid: use a strength from 0 to 1")
        if self.rotation not in ROTATIONS:
            raise QuantizationError(f"rotation={self.rotation!r} is unknown: use one of {ROTATIONS}")
        if self.rotation != "none" and self.scheme != "deploy":
            raise QuantizationError(f"rotation={self.rotation!r} needs scheme='deploy': other schemes follow PSAQ-ViT")
        for key in ("first_layer", "last_layers"):
            value = getattr(self, key)
            if value not in (None, "float") and (isinstance(value, bool) or value not in range(MIN_BITS, MAX_BITS + 1)):
                raise QuantizationError(
                    f"{key}={value!r} is not valid: use None, 'float' or bits from {MIN_BITS} to {MAX_BITS}"
                )
        # Every spec is built once, so that an invalid value is reported here and not when a model is converted.
        self._specs()
        for override in self.overrides:
            self._with([override])._specs()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> QuantPolicy:
        """The policy of a config dict.

        Args:
            config: The constructor's arguments. ``weight_range`` and ``activation_range``, the keys of earlier versions
                for the observers, are accepted.

        Raises:
            QuantizationError: A key is unknown or a value not valid.
        """
        config = _with_new_keys(config, "quantization policy")
        _reject_unknown(config, [field.name for field in fields(cls)], "quantization policy")
        return cls(**config)

    def to_config(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars from which ``from_config`` makes an equal policy."""
        return {**asdict(self), "overrides": [dict(override) for override in self.overrides]}

    def specs(self, name: str) -> LayerSpecs | None:
        """The specs of the module ``name``, None if it stays FP."""
        if self.fp_reason(name):
            return None
        return self._with([override for override in self.overrides if _covers(override["pattern"], name)])._specs()

    def fp_reason(self, name: str) -> str:
        """Which override keeps the module ``name`` FP, as text for the coverage report; empty if none does."""
        matching = [o for o in self.overrides if "keep_fp" in o and _covers(o["pattern"], name)]
        if not matching or not matching[-1]["keep_fp"]:
            return ""
        return str(matching[-1].get("reason") or f"kept FP by override {matching[-1]['pattern']!r}")

    def check_patterns(self, names: Iterable[str]) -> None:
        """Checks that every override matches a module; one with a typo in its pattern would have no effect.

        Args:
            names: The names of all modules.

        Raises:
            QuantizationError: A pattern matches no module; the message has the most similar names.
        """
        names = [name for name in names if name]
        for pattern in (override["pattern"] for override in self.overrides):
            if not any(fnmatchcase(name, pattern) for name in names):
                near = difflib.get_close_matches(pattern, names, 3, cutoff=0)
                raise QuantizationError(f"override {pattern!r} matches no module; near names: {', '.join(near)}")

    def _with(self, overrides: Iterable[Mapping[str, Any]]) -> QuantPolicy:
        """The policy without overrides in which these have been applied."""
        changes: dict[str, Any] = {"overrides": ()}
        for override in overrides:
            if "bits" in override:
                changes.update(weight_bits=override["bits"], activation_bits=override["bits"])
            changes.update({key: override[key] for key in _TUNABLE if key in override})
        return replace(self, **changes)

    def _specs(self) -> LayerSpecs:
        bits = self.activation_bits
        activation = activation_spec(bits, self.activation_observer, self.percentile)
        axis = -1 if self.rotation == "hadamard" else None
        return LayerSpecs(
            weight_spec(self.weight_bits, self.weight_observer, percentile=self.percentile),
            activation,
            replace(activation, granularity=self.norm_inputs, migration=self.norm_migration, rotation_axis=axis),
            activation if self.softmax_grid == "uniform" else activation_spec(bits, grid=self.softmax_grid),
            self.softmax_granularity == "per_row",
            self.qk_migration,
            self.rotation,
        )


def _covers(pattern: str, name: str) -> bool:
    """Whether the pattern matches the module or a module that contains it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(len(parts), 0, -1))


def _checked(override: Mapping[str, Any]) -> dict[str, Any]:
    override = _with_new_keys(override, "override")
    _reject_unknown(override, _OVERRIDE_KEYS, "override")
    if not isinstance(override.get("pattern"), str):
        raise QuantizationError(f"override {override} has no 'pattern': say which modules it is for")
    return override


def _with_new_keys(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy of ``config`` in which the keys of earlier versions have their new names."""
    for old, new in _OLD_KEYS.items():
        if old in config and new in config:
            raise QuantizationError(f"{what} has {new!r} and its old name {old!r}: use {new!r} alone")
    return {_OLD_KEYS.get(key, key): value for key, value in config.items()}


def _reject_unknown(config: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise QuantizationError(f"{what} has unknown keys {unknown}: known are {list(known)}")
