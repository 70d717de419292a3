"""The recipe: the ``dfq`` section of a config, with its changes by bit width."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config, ConfigDict

from ..errors import UsageError
from ..utils.config_lookup import find_file

KEYS = (
    "quantization",
    "generate",
    "calibrate",
    "distill",
    "by_bits",
    "arm",
    "progress",
    "pool_capacity",
    "text",
    "pictures",
    "report",
)
# Old names of keys (before version 0.2), which are still accepted.
OLD_SECTIONS = {"images": "generate", "cycle": "distill", "quiet": "progress"}
DEFAULTS = {"mmdet": "dfq_coco", "mmseg": "dfq_ade20k", "mmpretrain": "dfq_imagenet"}
OLD_QUANTIZATION = {"weight_range": "weight_observer", "activation_range": "activation_observer"}
OLD_DISTILL = {"distance": "discrepancy", "place": "distill_on"}


def parse_bits(text: str) -> tuple[int, int]:
    """Parse a bit width such as ``w4a8``.

    Returns:
        Bits of weights and of activations.

    Raises:
        UsageError: The text has another form.
    """
    weight, _, activation = text.lower().removeprefix("w").partition("a")
    if not (weight.isdigit() and activation.isdigit()):
        raise UsageError(f"bits {text!r} cannot be read: write for example w8a8 or w4a8")
    return int(weight), int(activation)


def recipe_of(cfg: Config, bits: tuple[int, int] | None = None) -> ConfigDict:
    """The recipe of a config at a bit width.

    ``by_bits`` holds the changes for each width, nested as the recipe itself::

        by_bits=dict(w4a4=dict(quantization=dict(activation_observer='percentile'), distill=dict(student_steps=30)))

    Args:
        cfg: A config with a ``dfq`` section; it is not changed.
        bits: Bits of weights and of activations; None for those of the recipe (default 8).

    Returns:
        A copy of the section in which ``by_bits`` is applied and removed.

    Raises:
        UsageError: The config has no ``dfq`` section, a key is unknown, or a width cannot be parsed.
    """
    if cfg.get("dfq") is None:
        raise UsageError("the config has no dfq section: start from one of configs/, or give mmdet's tools the config")
    recipe = with_new_names(copy.deepcopy(cfg.dfq))
    check_keys(recipe)
    quantization = recipe.setdefault("quantization", ConfigDict())
    if bits is not None:
        quantization.weight_bits, quantization.activation_bits = bits
    bits = quantization.get("weight_bits", 8), quantization.get("activation_bits", 8)
    merged = Config({"dfq": recipe})
    for width, changes in (recipe.pop("by_bits", None) or {}).items():
        changes = with_new_names(changes)
        check_keys(changes)
        if parse_bits(width) == bits:
            merged.merge_from_dict({"dfq": changes.to_dict()})
    merged.dfq.pop("by_bits", None)
    return merged.dfq


def default_recipe(scope: str | None) -> ConfigDict:
    """The ``dfq`` section for a config without one: that of the full-size recipes of its library.

    Args:
        scope: ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.

    Raises:
        UsageError: The scope is none of these.
    """
    if scope not in DEFAULTS:
        raise UsageError(f"default_scope {scope!r} has no default recipe: set it to one of {', '.join(DEFAULTS)}")
    return Config.fromfile(find_file(f"configs/_base_/{DEFAULTS[scope]}.py")).dfq


def with_new_names(section: ConfigDict) -> ConfigDict:
    """Rename old keys of a section, or of the changes for a width, in place.

    If a section has the old and the new name, for example after ``--cfg-options dfq.images.steps=9``, the value of the
    old name is merged over that of the new one.
    """
    section.pop("traceback", None)  # an old key without effect
    for old, new in OLD_SECTIONS.items():
        if old in section:
            merge_over(section, new, section.pop(old))
    for part, names in (("distill", OLD_DISTILL), ("quantization", OLD_QUANTIZATION)):
        options = section.get(part)
        for old, new in names.items():
            if isinstance(options, dict) and old in options:
                merge_over(options, new, options.pop(old))
    return section


def merge_over(section: ConfigDict, key: str, value: Any) -> None:
    """Merge a value over that of a key by the rules of configs; ``_delete_=True`` replaces the whole value."""
    merged = Config({key: section.get(key)}) if section.get(key) is not None else Config({})
    merged.merge_from_dict({key: value.to_dict() if isinstance(value, ConfigDict) else value})
    section[key] = merged[key]
    if isinstance(section[key], dict):
        section[key].pop("_delete_", None)


def check_keys(options: dict[str, Any]) -> None:
    """Check that a section, or the changes for a width, have only known keys.

    Raises:
        UsageError: A key is unknown.
    """
    unknown = sorted(set(options) - set(KEYS))
    if unknown:
        raise UsageError(f"dfq has unknown keys {', '.join(unknown)}: known are {', '.join(KEYS)}")
