"""Detectors that take text (Grounding DINO, GLIP): the text that they get on generated images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from ...errors import UsageError
from .classes import kinds_of

TEXT_DETECTORS = {"mmdet.GLIP", "mmdet.GroundingDINO"}
# Their part that reads it.
TEXT_BRANCH = "language_model"
# Attention of text, and between text and image, whose products have no quantized form.
TEXT_ATTENTION = ("BertSelfAttention", "BertSdpaSelfAttention", "BiMultiHeadAttention")
# The attribute of such a model that holds the names.
TEXT = "calibration_text"
DEFAULT = ("object",)


def takes_text(model: nn.Module) -> bool:
    """Whether a model is a detector whose heads need text."""
    return bool(TEXT_DETECTORS & kinds_of(model))


def text_of(model: nn.Module) -> tuple[str, ...]:
    """The names of objects that a detector looks for on generated images: those of :func:`set_text`, or ``object``.

    A detector that is tested on its classes in chunks gets the first chunk.
    """
    found: tuple[str, ...] = getattr(model, TEXT, DEFAULT)
    chunk = (getattr(model, "test_cfg", None) or {}).get("chunked_size", -1)
    return found[:chunk] if chunk > 0 else found


def set_text(model: nn.Module, cfg: Config, meta: dict[str, Any]) -> None:
    """Set the text that a detector gets on generated images; other models are not changed.

    The text is ``dfq.text`` of the recipe; without this key the classes of the test set, or those in the checkpoint, or
    ``object``.

    Args:
        model: The float model.
        cfg: The recipe.
        meta: The ``meta`` dictionary of the checkpoint.

    Raises:
        UsageError: ``dfq.text`` is neither a caption nor a list of names.
    """
    if not takes_text(model):
        return
    given = (cfg.get("dfq") or {}).get("text")
    described = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    classes = dataset_classes(described) or (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    setattr(model, TEXT, names_in(given) if given is not None else tuple(classes or DEFAULT))


def names_in(text: str | Sequence[str]) -> tuple[str, ...]:
    """The names in a caption such as ``'cat . remote control'``, or of a list.

    Raises:
        UsageError: There is none, or the value is no text.
    """
    names = text.split(".") if isinstance(text, str) else text
    found = tuple(one.strip() for one in names if isinstance(one, str)) if isinstance(names, (list, tuple)) else ()
    if not found or len(found) != len(names) and not isinstance(text, str) or not any(found):
        raise UsageError(f"dfq.text={text!r} is no text: write names, such as ['cat', 'dog'] or 'cat . dog'")
    return tuple(one for one in found if one)


def dataset_classes(described: dict[str, Any]) -> tuple[str, ...]:
    """The classes of a data set by its config or its class, without reading it; empty where neither names them."""
    while "dataset" in described:  # a wrapper that repeats or balances a data set
        described = described["dataset"]
    classes = (described.get("metainfo") or {}).get("classes")
    if not classes and described.get("type"):
        kind: Any = described["type"]
        with suppress(KeyError, ImportError, AttributeError), DATASETS.switch_scope_and_registry(None) as registry:
            found = kind if isinstance(kind, type) else registry.get(kind)
            classes = getattr(found, "METAINFO", {}).get("classes")
    return (classes,) if isinstance(classes, str) else tuple(classes or ())
