"""Which module gets which specs: the user's choice as one immutable value that goes through config files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from ..errors import QuantizationError
from .spec import QuantSpec, activation_spec, weight_spec

SCHEMES = ("deploy", "psaq")
_TUNABLE = (
    "weight_bits",
    "activation_bits",
    "weight_range",
    "activation_range",
    "percentile",
    "norm_inputs",
    "norm_migration",
    "softmax_grid",
    "softmax_granularity",
)
_OVERRIDE_KEYS = ("pattern", "bits", "keep_fp", *_TUNABLE)


@dataclass(frozen=True)
class LayerSpecs:
    """The specs of one module.

    Attributes:
        weight: Of its weight.
        activation: Of its activations, but for two kinds:
        norm_input: Of an input that comes from a LayerNorm.
        softmax: Of the softmax output, where it is a product of attention.
        softmax_rows: Whether the softmax output is divided by its row's maximum before its quantizer.
    """

    weight: QuantSpec
    activation: QuantSpec
    norm_input: QuantSpec
    softmax: QuantSpec
    softmax_rows: bool


@dataclass(frozen=True)
class QuantPolicy:
    """Bits and ranges of a model, with exceptions by module name.

    An override is a mapping with a ``pattern`` (as in ``fnmatch``, where ``*`` also matches dots) and any of ``bits``
    (weights and activations), ``weight_bits``, ``activation_bits``, ``weight_range``, ``activation_range``,
    ``percentile``, ``norm_inputs``, ``norm_migration``, ``softmax_grid``, ``softmax_granularity`` and ``keep_fp``. A
    pattern that matches a module also covers everything below it. Later overrides win, key by key.

    Example::

        QuantPolicy(weight_bits=4, overrides=[
            {'pattern': 'backbone.patch_embed', 'bits': 8},
            {'pattern': '*.stages.3.*', 'keep_fp': True},
        ])

    Args:
        weight_bits: 2 to 8.
        activation_bits: 2 to 8.
        scheme: ``'deploy'``: operands of every Linear, Conv and attention product, what INT8 engines run. ``'psaq'``:
            also what PSAQ-ViT quantizes between them (residual sums, GELU output, bias tables), by the adapters.
        weight_range: Range estimator of weights, see ``QuantSpec.range``.
        activation_range: Range estimator of activations.
        percentile: Per cent that the percentile estimator cuts on each side.
        overrides: Exceptions, see above.
        norm_inputs: ``'per_tensor'``, or ``'per_channel'``: the inputs that come from a LayerNorm have a scale for each
            channel, which goes into gamma, beta and the next weight (see ``QuantizedLayer.input_fold``), so that they
            deploy with one scale. The adapters know which these are.
        norm_migration: How far these scales follow their channels' ranges, 0 to 1: 1 is RepQ-ViT's range of its own for
            each, less is SmoothQuant's compromise (see ``migrated_range``).
        softmax_grid: Grid of the softmax output, ``'uniform'`` or ``'log2'``.
        softmax_granularity: ``'per_tensor'``, or ``'per_row'``: each row of the softmax output is divided by its
            maximum before its quantizer and the product multiplied by it. Rows that look everywhere (1 / n each) then
            have as many steps as rows that look at one place, and integers still have one scale.

    Raises:
        QuantizationError: A value or a key of an override isn't valid.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    scheme: str = "deploy"
    weight_range: str = "minmax"
    activation_range: str = "minmax"
    percentile: float = 0.05
    overrides: Sequence[Mapping[str, Any]] = ()
    norm_inputs: str = "per_tensor"
    norm_migration: float = 1.0
    softmax_grid: str = "uniform"
    softmax_granularity: str = "per_tensor"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise QuantizationError(f"scheme={self.scheme!r} is unknown: use one of {SCHEMES}")
        if isinstance(self.overrides, str) or not all(isinstance(override, Mapping) for override in self.overrides):
            raise QuantizationError(f"overrides={self.overrides!r} is no list of dict(pattern=..., bits=...)")
        object.__setattr__(self, "overrides", tuple(_checked(override) for override in self.overrides))
        if self.softmax_granularity not in ("per_tensor", "per_row"):
            raise QuantizationError(
                f"softmax_granularity={self.softmax_granularity!r} is unknown: use 'per_tensor' or 'per_row'"
            )
        # Build every spec once, so that a wrong value is reported where the policy is written and not deep in a model.
        self._specs()
        for override in self.overrides:
            self._with([override])._specs()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> QuantPolicy:
        """The policy of a config dict, whose keys are the constructor's arguments.

        Raises:
            QuantizationError: A key is unknown or a value not valid.
        """
        known = [field.name for field in fields(cls)]
        _reject_unknown(config, known, "quantization policy")
        return cls(**config)

    def to_config(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, from which ``from_config`` makes an equal policy."""
        return {**asdict(self), "overrides": [dict(override) for override in self.overrides]}

    def specs(self, name: str) -> LayerSpecs | None:
        """The specs of the module called ``name``, None where it stays FP."""
        if self.fp_reason(name):
            return None
        return self._with([override for override in self.overrides if _covers(override["pattern"], name)])._specs()

    def fp_reason(self, name: str) -> str:
        """The override that keeps the module ``name`` FP, in words; empty where none does."""
        decisive = [o for o in self.overrides if "keep_fp" in o and _covers(o["pattern"], name)]
        return f"kept FP by override {decisive[-1]['pattern']!r}" if decisive and decisive[-1]["keep_fp"] else ""

    def check_patterns(self, names: Iterable[str]) -> None:
        """Makes sure that every override matches a module: a typo would silently quantize with other bits.

        Args:
            names: The names of all modules.

        Raises:
            QuantizationError: A pattern matches nothing; the message shows the nearest names.
        """
        names = [name for name in names if name]
        for pattern in (override["pattern"] for override in self.overrides):
            if not any(fnmatchcase(name, pattern) for name in names):
                near = difflib.get_close_matches(pattern, names, 3, cutoff=0)
                raise QuantizationError(f"override {pattern!r} matches no module; near names: {', '.join(near)}")

    def _with(self, overrides: Iterable[Mapping[str, Any]]) -> QuantPolicy:
        changes: dict[str, Any] = {"overrides": ()}
        for override in overrides:
            if "bits" in override:
                changes.update(weight_bits=override["bits"], activation_bits=override["bits"])
            changes.update({key: override[key] for key in _TUNABLE if key in override})
        return replace(self, **changes)

    def _specs(self) -> LayerSpecs:
        bits = self.activation_bits
        activation = activation_spec(bits, self.activation_range, self.percentile)
        return LayerSpecs(
            weight_spec(self.weight_bits, self.weight_range, percentile=self.percentile),
            activation,
            replace(activation, granularity=self.norm_inputs, migration=self.norm_migration),
            activation if self.softmax_grid == "uniform" else activation_spec(bits, grid=self.softmax_grid),
            self.softmax_granularity == "per_row",
        )


def _covers(pattern: str, name: str) -> bool:
    """Whether the pattern matches the module or one that contains it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(len(parts), 0, -1))


def _checked(override: Mapping[str, Any]) -> dict[str, Any]:
    _reject_unknown(override, _OVERRIDE_KEYS, "override")
    if not isinstance(override.get("pattern"), str):
        raise QuantizationError(f"override {dict(override)} has no 'pattern': say which modules it is for")
    return dict(override)


def _reject_unknown(config: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise QuantizationError(f"{what} has unknown keys {unknown}: known are {list(known)}")
