"""Groups of configs whose models are built and computed in the same way, so that one run stands for all of a group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .configs import ZooConfig
from .kinds import backbone_name, classes_of, kind_of, needs_of, short, size_of, type_name

# What concerns training, or only the values of weights and results.
TRAINING = """
    init_cfg pretrained checkpoint_path train_cfg semi_train_cfg data_preprocessor frozen_stages norm_eval frozen
    requires_grad with_cp use_checkpoint num_cp align_corners ignore_index class_weight avg_non_ignore batch_augments
    teacher_config teacher_ckpt eval_teacher prototype train_augments sampler assigner
"""
DROPPED = frozenset(TRAINING.split())
DROPPED_BEGINNINGS = ("loss", "drop", "attn_drop", "proj_drop")
CLASS_COUNTS = ("num_classes", "num_things_classes", "num_stuff_classes", "cat_max_size")
# All other floats are thresholds, means, scales of a loss …: only whether they are zero matters.
STRUCTURAL_FLOATS = ("factor", "ratio", "mult", "width", "expansion", "exp_rate", "alpha")
RESULTS = ("test_cfg", "semi_test_cfg", "tracker")


@dataclass(frozen=True)
class Group:
    """Configs whose models are structurally equal.

    Attributes:
        library: The library that ships them.
        key: A hash of what they agree in.
        config: The name of the config that is run.
        covers: The names of all configs, that one included.
        kind: See :func:`kind_of`.
        needs: See :func:`needs_of`.
        model: Class name of the model.
        backbone: Library and class of the backbone.
        classes: See :func:`classes_of`.
        size: See :func:`size_of`.
    """

    library: str
    key: str
    config: str
    covers: tuple[str, ...]
    kind: str
    needs: str
    model: str
    backbone: str
    classes: tuple[str, ...]
    size: tuple[int, int]


def structure(part: Any, scope: str, key: str = "") -> Any:
    """What of a model's config determines how the model is built and what it computes in inference.

    Numbers of classes, thresholds, losses, initial weights and pixel statistics do not; they change the sizes of last
    layers, or values.

    Args:
        part: A model's config, or a part of it.
        scope: The config's ``default_scope``; a type of this scope is the same with and without it.
        key: The key of the part in the config around it.
    """
    if isinstance(part, dict):
        kept = {name: value for name, value in part.items() if not is_dropped(str(name))}
        found = {str(name): structure(value, scope, str(name)) for name, value in kept.items()}
        if key in RESULTS:  # how results are computed, not the numbers of it
            found = {name: value for name, value in found.items() if isinstance(value, (str, dict))}
        # By its type, the preprocessor decides what a model receives.
        if isinstance(part.get("data_preprocessor"), dict):
            found["data_preprocessor"] = structure(part["data_preprocessor"].get("type"), scope, "type")
        return found
    if isinstance(part, (list, tuple)):
        return [structure(one, scope, key) for one in part]
    if key == "type":
        name = type_name(part).removeprefix(f"{scope}.")
        # In inference both compute the same.
        return "BN" if name in ("SyncBN", "MMSyncBN") else name
    if key in CLASS_COUNTS:
        return bool(part)
    if isinstance(part, float) and not (key.endswith(STRUCTURAL_FLOATS) or part.is_integer()):
        return bool(part)
    # 1.0 and 1 are one number.
    return int(part) if isinstance(part, float) and part.is_integer() else part if plain(part) else str(part)


def is_dropped(key: str) -> bool:
    """Whether a key of a config does not change the model that inference uses."""
    return key in DROPPED or key.startswith(DROPPED_BEGINNINGS)


def plain(value: Any) -> bool:
    """Whether JSON has the value."""
    return value is None or isinstance(value, (bool, int, float, str))


def structure_key(model: dict[str, Any], scope: str) -> str:
    """Hash of :func:`structure`."""
    text = json.dumps([scope, structure(model, scope)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def grouped(configs: Iterable[ZooConfig]) -> list[Group]:
    """The groups of all configs that describe a model, representatives first.

    Representatives are the smallest group of each combination of classes (:func:`classes_of`); among these, and among
    the others, transformers come first, and the order is by library and from small to large.
    """
    members: dict[tuple[str, str], list[ZooConfig]] = {}
    for config in configs:
        if config.model is not None:
            members.setdefault((config.library, structure_key(config.model, config.scope)), []).append(config)
    groups = [group_of(library, key, found) for (library, key), found in members.items()]
    first = {group.key for group in representatives(groups)}
    order = [group.library for group in groups]

    def place(one: Group) -> tuple[Any, ...]:
        return one.key not in first, one.kind != "transformer", order.index(one.library), one.size, one.config

    return sorted(groups, key=place)


def representatives(groups: Iterable[Group]) -> list[Group]:
    """The smallest group of each combination of library and classes."""
    found: dict[tuple[str, ...], Group] = {}
    for group in groups:
        current = found.setdefault((group.library, *group.classes), group)
        if (group.size, group.config) < (current.size, current.config):
            found[(group.library, *group.classes)] = group
    return list(found.values())


def group_of(library: str, key: str, members: list[ZooConfig]) -> Group:
    """The group of configs with equal structure; the first is the one to run."""
    first = members[0]
    assert first.model is not None
    return Group(
        library,
        key,
        first.name,
        tuple(one.name for one in members),
        kind_of(first.model),
        needs_of(first.model),
        short(first.model.get("type")),
        backbone_name(first.model, first.scope),
        classes_of(first.model, first.scope),
        size_of(first.model),
    )
