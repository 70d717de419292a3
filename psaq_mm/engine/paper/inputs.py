"""Data sets and checkpoints of the paper's table, checked before anything runs: all that is missing, at once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ...errors import PSAQError
from ...models.checkpoint import how_to_get, read_checkpoint
from ..dataset_checks import missing_path, readable
from ..preparation import open_config
from .plan import Dataset, Model


@dataclass
class Inputs:
    """What was found for a table.

    Attributes:
        configs: For each model that can run, its recipe with the given folders and checkpoint.
        images: The number of test images of each data set, by name.
        missing: What is missing or broken, and how to get it.
        skipped: The models that are left out, with the reason.
    """

    configs: dict[str, Config] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def check_inputs(
    models: Iterable[Model], folders: dict[str, Path | None], checkpoints: Path, options: dict[str, Any]
) -> Inputs:
    """Check data sets and checkpoints of all models.

    A model that the user did not ask for by name is skipped if its data set was not given, or if nobody has published a
    checkpoint of it and there is none.

    Args:
        models: The models.
        folders: The folders of the data sets, by option.
        checkpoints: The folder of the checkpoints, which lie there as below ``checkpoints/`` in the recipes.
        options: Changes of all recipes, as by ``--cfg-options``.

    Returns:
        What was found.
    """
    found, checked = Inputs(), set[str]()
    for model in models:
        given = folders.get(model.dataset.option)
        if given is None and not model.selected:
            found.skipped.append(f"{model.title}: --{model.dataset.option} was not given")
            continue
        # The recipes of a model differ in their bits alone, which the runs set.
        cfg = open_config(model.recipe(model.bits[0]))
        cfg.load_from = str(checkpoints / below_first(Path(cfg.load_from)))
        if cfg.get("checkpoint_training") and not model.selected and not Path(cfg.load_from).is_file():
            found.skipped.append(f"{model.title}: no public checkpoint, and no {cfg.load_from}")
            continue
        place_data(cfg, given or Path())
        cfg.merge_from_dict(copy.deepcopy(options))
        if model.dataset.name not in checked:
            checked.add(model.dataset.name)
            check_data(model.dataset, cfg, given, found)
        hint = how_to_get(Path(cfg.load_from), cfg).removesuffix(", or give another with --checkpoint")
        try:
            read_checkpoint(cfg.load_from, hint=hint)
        except PSAQError as error:
            found.missing.append(f"{model.title}: {error}")
        found.configs[model.name] = cfg
    return found


def below_first(path: Path) -> Path:
    """A path without its first folder: ``checkpoints/a/b.pth`` gives ``a/b.pth``."""
    return path.relative_to(path.parts[0]) if len(path.parts) > 1 else path


def place_data(cfg: Config, root: Path) -> None:
    """Set the folder of a recipe's test and validation set, in place, and of the annotations that evaluators read."""
    for part in ("test", "val"):
        described = test_set(cfg, part)
        old, described["data_root"] = str(described.get("data_root") or ""), str(root)
        evaluators = cfg.get(f"{part}_evaluator")
        for one in evaluators if isinstance(evaluators, list) else [evaluators]:
            if one.get("ann_file"):
                one["ann_file"] = str(root / one["ann_file"].removeprefix(old).lstrip("/"))


def test_set(cfg: Config, part: str = "test") -> Any:
    """The config of the test or validation set itself, inside wrappers."""
    described = cfg[f"{part}_dataloader"]["dataset"]
    while "dataset" in described:
        described = described["dataset"]
    return described


def expected(described: dict[str, Any]) -> Iterator[Path]:
    """The annotation file and the folders that a data set reads."""
    root = Path(described["data_root"])
    if described.get("ann_file"):
        yield root / described["ann_file"]
    prefix = described.get("data_prefix") or described.get("split") or ""
    yield from (root / one for one in (prefix.values() if isinstance(prefix, dict) else [prefix]))


def check_data(dataset: Dataset, cfg: Config, given: Path | None, found: Inputs) -> None:
    """Check that a data set is there and can be read, and count its images.

    Args:
        dataset: The data set.
        cfg: A recipe that reads it.
        given: Its folder; None if none was given.
        found: Receives what is missing and the number of images.
    """
    described = test_set(cfg)
    paths = list(expected(described))
    source = f"get it from {dataset.page} ({dataset.files})"
    if given is None or not all(path.exists() for path in paths):
        if given is None:
            below = " and ".join(str(path.relative_to(described["data_root"])) for path in paths)
            lost = f"--{dataset.option} was not given, a folder of {below}"
        else:
            lost = "there is no " + " and no ".join(str(path) for path in paths if not path.exists())
        found.missing.append(f"{dataset.name}: {lost}: {source}")
        return
    init_default_scope(cfg.get("default_scope") or "mmengine")
    try:
        with readable(described):
            built = DATASETS.build(copy.deepcopy(described))
    except FileNotFoundError as error:
        found.missing.append(f"{dataset.name}: there is no {missing_path(error)}: {source}")
        return
    except PSAQError as error:
        found.missing.append(f"{dataset.name}: {error}; {source}")
        return
    found.images[dataset.name] = len(built)
    # The first, the middle and the last image stand for all of them: a wrong layout lacks every one.
    for index in sorted({0, len(built) // 2, len(built) - 1}):
        about = built.get_data_info(index)
        files = [about[key] for key in ("img_path", "seg_map_path") if about.get(key)]
        absent = [file for file in files if not Path(file).is_file()]
        if absent:
            found.missing.append(f"{dataset.name}: there is no {absent[0]}, which the data set lists: {source}")
            return
