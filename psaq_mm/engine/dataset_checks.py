"""Checks of data sets before long computations; unreadable data and wrong classes give a one-line error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..errors import PSAQError, UsageError
from ..models.hosts.language import takes_text

UNREADABLE = (AssertionError, LookupError, RuntimeError, TypeError, ValueError, NotADirectoryError, PermissionError)
# Parts of the messages of mmpretrain and mmengine for an empty data set.
EMPTY = ("Found 0 files", "need at least one array")


def build_dataset(described: dict[str, Any], model: nn.Module) -> Any:
    """Build a data set and check that its classes are those of a model.

    Args:
        described: The config of the data set.
        model: The model.

    Raises:
        FileNotFoundError: The data set does not exist.
        UsageError: The data set cannot be read, or has other classes.
    """
    with readable(described):
        dataset = DATASETS.build(described)
    check_classes(dataset, model)
    return dataset


def build_test_loop(runner: Runner, model: nn.Module) -> BaseLoop:
    """The test loop of a runner; the first call builds its data set.

    Args:
        runner: A runner of mmengine.
        model: The float model, whose classes the data set must have.

    Raises:
        FileNotFoundError: The data set does not exist.
        UsageError: The data set cannot be read, or has other classes.
    """
    loader = runner._test_dataloader
    if isinstance(loader, dict):
        described = loader["dataset"]
        with readable(described):
            # Build the dataloader here as BaseLoop would, so that only errors of the data set are converted.
            by_rank = runner._randomness_cfg.get("diff_rank_seed", False)
            loader = runner.build_dataloader(loader, seed=runner.seed, diff_rank_seed=by_rank)
        check_classes(loader.dataset, model)
        runner._test_dataloader = loader
    return runner.build_test_loop(runner._test_loop)


@contextmanager
def readable(described: dict[str, Any]) -> Iterator[None]:
    """Convert the hosts' errors about an unreadable data set to one-line errors.

    Args:
        described: The config of the data set that the block builds.

    Raises:
        FileNotFoundError: The list of images or the annotation file does not exist.
        UsageError: The list has a broken line, there is no image, or a file has another format than the data set
            expects.
    """
    try:
        yield
    except UNREADABLE as error:
        place = where(described)
        if described.get("ann_file") and not place.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from None
        if any(part in str(error) for part in EMPTY):
            raise UsageError(f"the data set {place} has no images: correct data_root or its folders") from None
        broken = broken_line(place)
        if broken:
            raise UsageError(
                f"{place} has a broken line, {broken}: each line of a list of images is a file name, a "
                "space and the number of its class"
            ) from None
        raise UsageError(
            f"the data set {place} cannot be read ({type(error).__name__}: {error}): correct it, or its config"
        ) from None


@contextmanager
def needed(described: dict[str, Any]) -> Iterator[None]:
    """Convert the error for a missing data set, for code that cannot run without it.

    Args:
        described: The config of the data set that the block reads.

    Raises:
        PSAQError: The data set does not exist.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise PSAQError(
            f"the test set is not there ({missing_path(error)}): put it there, or change data_root of "
            f"test_dataloader.dataset ({described.get('type')}) in the config"
        ) from None


def missing_path(error: FileNotFoundError) -> str:
    """The path of the missing file; an error from a worker process has it in the last line, after a traceback."""
    return str(error.filename or str(error).strip().splitlines()[-1])


def where(described: dict[str, Any]) -> Path:
    """The annotation file or image list of a data set, or its image folder if it has neither."""
    while "dataset" in described:  # a wrapper that repeats or balances a data set
        described = described["dataset"]
    root = Path(described.get("data_root") or "")
    prefix = described.get("data_prefix") or ""
    if isinstance(prefix, dict):
        prefix = next((prefix[key] for key in ("img_path", "img") if key in prefix), "")
    split = described.get("split")  # mmpretrain's ImageNet finds its list and its folder by this name
    listed = f"meta/{split}.txt"
    if split and not described.get("ann_file") and (root / listed).is_file():
        return root / listed
    return root / (described.get("ann_file") or prefix or split or "")


def broken_line(path: Path) -> str:
    """Number and text of the first line that is not a file name and a number; empty if there is none."""
    if path.suffix != ".txt" or not path.is_file():
        return ""
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not (name and label.removeprefix("-").isdigit()):
            return f"number {number} ({line.strip()!r})"
    return ""


def check_classes(dataset: Any, model: nn.Module) -> None:
    """Check that a data set has the classes of a model.

    A data set that names its classes must name as many as the model has. A list of images need not contain all classes,
    so only its labels are checked.

    Args:
        dataset: The data set, possibly a wrapper of others.
        model: A classifier, segmentor or detector.

    Raises:
        UsageError: The number of classes differs, or a label is out of range.
    """
    count = class_count(model)
    if count is None:
        return
    for one in parts(dataset):
        place = getattr(one, "ann_file", "") or next(iter((getattr(one, "data_prefix", None) or {}).values()), "")
        named, labels = len((getattr(one, "metainfo", None) or {}).get("classes") or ()), labels_of(one)
        if labels and min(labels) < 0:
            raise UsageError(f"the data set {place} has the label {min(labels)}: number its classes from 0")
        if named not in (0, count):
            wrong = f"{named} classes"
        elif labels and max(labels) >= count:
            wrong = f"labels up to {max(labels)}, that is {max(labels) + 1} classes or more"
        else:
            continue
        raise UsageError(
            f"the data set {place} has {wrong}, the model has {count}: give the data set of the classes that the model "
            "was trained for, or a config and a checkpoint for those of the data set"
        )


def parts(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers that repeat, balance or concatenate; else the data set itself."""
    inner = getattr(dataset, "datasets", None) or [one for one in [getattr(dataset, "dataset", None)] if one]
    for one in inner:
        yield from parts(one)
    if not inner:
        yield dataset


def labels_of(dataset: Any) -> set[int]:
    """The labels of an image list of mmpretrain; empty for other data sets, which name their classes."""
    found: set[int] = set()
    if hasattr(dataset, "get_gt_labels"):
        with suppress(KeyError):  # images without labels
            for index in range(len(dataset)):
                found.update(dataset.get_cat_ids(index))
    return found


def class_count(model: nn.Module) -> int | None:
    """The number of classes of a model's head; None if the head does not state it."""
    if takes_text(model):  # which names its classes
        return None
    box_head = getattr(getattr(model, "roi_head", None), "bbox_head", None)
    # the wrapper of timm's classifiers has a single part, named model
    others = (getattr(model, name, None) for name in ("bbox_head", "decode_head", "head", "model"))
    for head in (box_head, *others):
        last = head[-1] if isinstance(head, nn.ModuleList) else head
        count = getattr(last, "num_classes", None)
        if isinstance(count, int):
            return count
    return None
