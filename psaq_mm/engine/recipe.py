"""The recipe: the ``dfq`` section of a config, and what a bit width changes in it."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config, ConfigDict

from ..errors import UsageError
from ..utils.config_lookup import find_file

KEYS = ("quantization", "generate", "calibrate", "distill", "by_bits", "arm", "progress", "pool_capacity")
# Names before version 0.2, by section; recipes that use them work as before.
OLD_SECTIONS = {"images": "generate", "cycle": "distill", "quiet": "progress"}
DEFAULTS = {"mmdet": "dfq_coco", "mmseg": "dfq_ade20k", "mmpretrain": "dfq_imagenet"}
OLD_QUANTIZATION = {"weight_range": "weight_observer", "activation_range": "activation_observer"}
OLD_DISTILL = {"distance": "discrepancy", "place": "distill_on"}


def parse_bits(text: str) -> tuple[int, int]:
    """Weight and activation bits of ``w4a8``.

    Raises:
        UsageError: It is written otherwise.
    """
    weight, _, activation = text.lower().removeprefix("w").partition("a")
    if not (weight.isdigit() and activation.isdigit()):
        raise UsageError(f"bits {text!r} cannot be read: write for example w8a8 or w4a8")
    return int(weight), int(activation)


def recipe_of(cfg: Config, bits: tuple[int, int] | None = None) -> ConfigDict:
    """The recipe of a config at its bit width, or at another.

    ``by_bits`` says what a width changes, key by key and nested as the recipe itself::

        by_bits=dict(w4a4=dict(quantization=dict(activation_observer='percentile'), cycle=dict(student_steps=30)))

    Args:
        cfg: A config with a ``dfq`` section, which stays as it is.
        bits: Weight and activation bits; None takes those that the recipe says (8 where it doesn't).

    Returns:
        A copy of the section without ``by_bits``, with the changes of the width made.

    Raises:
        UsageError: There is no such section, a key of it is unknown, or a width cannot be read.
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
    """The ``dfq`` section that a config without one gets: that of the full-size recipes of its library.

    Args:
        scope: ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.

    Raises:
        UsageError: It is none of them.
    """
    if scope not in DEFAULTS:
        raise UsageError(f"default_scope {scope!r} has no default recipe: set it to one of {', '.join(DEFAULTS)}")
    return Config.fromfile(find_file(f"configs/_base_/{DEFAULTS[scope]}.py")).dfq


def with_new_names(section: ConfigDict) -> ConfigDict:
    """A section, or a width's changes, with the names of this version; it is changed in place.

    Where an old name stands beside the new one, as after ``--cfg-options dfq.images.steps=9`` on one of our recipes,
    it is merged over it.
    """
    section.pop("traceback", None)  # never read
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
    """Merge a value over the one of a key, as configs are merged: ``_delete_`` replaces all of it."""
    merged = Config({key: section.get(key)}) if section.get(key) is not None else Config({})
    merged.merge_from_dict({key: value.to_dict() if isinstance(value, ConfigDict) else value})
    section[key] = merged[key]
    if isinstance(section[key], dict):
        section[key].pop("_delete_", None)


def check_keys(options: dict[str, Any]) -> None:
    """Make sure that a section or a width's changes hold nothing that would be ignored.

    Raises:
        UsageError: A key is unknown.
    """
    unknown = sorted(set(options) - set(KEYS))
    if unknown:
        raise UsageError(f"dfq has unknown keys {', '.join(unknown)}: known are {', '.join(KEYS)}")
