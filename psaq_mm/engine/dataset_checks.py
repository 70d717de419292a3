"""Data sets that cannot be read or are of other classes than the model: one line, before any long work."""

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

UNREADABLE = (AssertionError, LookupError, RuntimeError, TypeError, ValueError, NotADirectoryError, PermissionError)
# What mmpretrain and mmengine say where they find no image at all.
EMPTY = ("Found 0 files", "need at least one array")


def build_dataset(described: dict[str, Any], model: nn.Module) -> Any:
    """Build a data set, for a model of the same classes.

    Args:
        described: The data set's config.
        model: The model.

    Raises:
        FileNotFoundError: It is not there.
        UsageError: It cannot be read, or is of other classes.
    """
    with readable(described):
        dataset = DATASETS.build(described)
    check_classes(dataset, model)
    return dataset


def build_test_loop(runner: Runner, model: nn.Module) -> BaseLoop:
    """A runner's test loop, built with its data set on the first call.

    Args:
        runner: mmengine's.
        model: The float model, whose classes the data set must have.

    Raises:
        FileNotFoundError: The data set is not there.
        UsageError: It cannot be read, or is of other classes than the model.
    """
    loader = runner._test_dataloader
    if isinstance(loader, dict):
        described = loader["dataset"]
        with readable(described):
            # As BaseLoop does it, where no error of other parts of the loop is taken for one of the data set.
            by_rank = runner._randomness_cfg.get("diff_rank_seed", False)
            loader = runner.build_dataloader(loader, seed=runner.seed, diff_rank_seed=by_rank)
        check_classes(loader.dataset, model)
        runner._test_dataloader = loader
    return runner.build_test_loop(runner._test_loop)


@contextmanager
def readable(described: dict[str, Any]) -> Iterator[None]:
    """Turn what the hosts say of a data set that they cannot read into one line.

    Args:
        described: The config of the data set that the block builds.

    Raises:
        FileNotFoundError: Its list of images or annotations is not there.
        UsageError: A line of the list is broken, there is no image, or it is not as the data set expects.
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
                f"{place} has a broken line, {broken}: a list of images has a file's name, a space and the number of "
                "its class in each"
            ) from None
        raise UsageError(
            f"the data set {place} cannot be read ({type(error).__name__}: {error}): correct it, or its config"
        ) from None


@contextmanager
def needed(described: dict[str, Any]) -> Iterator[None]:
    """Turn a data set that is not there into one line, where nothing can be done without it.

    Args:
        described: The config of the data set that the block reads.

    Raises:
        PSAQError: It is not there.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise PSAQError(
            f"the test set is not there ({missing_path(error)}): put it there, or change data_root of "
            f"test_dataloader.dataset ({described.get('type')}) in the config"
        ) from None


def missing_path(error: FileNotFoundError) -> str:
    """What was not there; where a worker process read it, a traceback stands before the message that says so."""
    return str(error.filename or str(error).strip().splitlines()[-1])


def where(described: dict[str, Any]) -> Path:
    """The list or annotations of a data set, or its folder of images where it has no such file."""
    while "dataset" in described:  # repeated or balanced: what is read is inside
        described = described["dataset"]
    root = Path(described.get("data_root") or "")
    prefix = described.get("data_prefix") or ""
    if isinstance(prefix, dict):
        prefix = next((prefix[key] for key in ("img_path", "img") if key in prefix), "")
    return root / (described.get("ann_file") or prefix)


def broken_line(path: Path) -> str:
    """The first line of a text list that is not a file's name and a number, with its place; empty where all are."""
    if path.suffix != ".txt" or not path.is_file():
        return ""
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not (name and label.removeprefix("-").isdigit()):
            return f"number {number} ({line.strip()!r})"
    return ""


def check_classes(dataset: Any, model: nn.Module) -> None:
    """Make sure that a data set is of the classes that a model tells apart.

    A list of images may lack some of them, since a sample may; a data set that names its classes names all.

    Args:
        dataset: The data set, maybe made of others.
        model: A classifier, segmentor or detector.

    Raises:
        UsageError: It isn't.
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
    """The data sets that one is made of by repeating, balancing or joining; itself where it isn't."""
    inner = getattr(dataset, "datasets", None) or [one for one in [getattr(dataset, "dataset", None)] if one]
    for one in inner:
        yield from parts(one)
    if not inner:
        yield dataset


def labels_of(dataset: Any) -> set[int]:
    """The labels of an image list of mmpretrain's; of others nothing, since there the names decide."""
    found: set[int] = set()
    if hasattr(dataset, "get_gt_labels"):
        with suppress(KeyError):  # images without labels
            for index in range(len(dataset)):
                found.update(dataset.get_cat_ids(index))
    return found


def class_count(model: nn.Module) -> int | None:
    """How many classes a model tells apart, as its head says; None where it doesn't."""
    box_head = getattr(getattr(model, "roi_head", None), "bbox_head", None)
    # timm's classifiers are a single part
    others = (getattr(model, name, None) for name in ("bbox_head", "decode_head", "head", "model"))
    for head in (box_head, *others):
        last = head[-1] if isinstance(head, nn.ModuleList) else head
        count = getattr(last, "num_classes", None)
        if isinstance(count, int):
            return count
    return None
