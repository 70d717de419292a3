"""The rows of the paper's table: the recipes of ``configs/``, and the figures that are published for them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from mmengine.fileio import load

from ...errors import UsageError
from ...utils.config_lookup import packaged
from ...utils.metrics import METRICS

BITS = re.compile(r"_(w\d+a\d+)$")
# The metrics of the table, by the last part of the evaluators' keys.
SHOWN = ("bbox_mAP", "segm_mAP", "mIoU", "top1")
TITLES = {METRICS[key].title: key for key in SHOWN}
NEAR_NAMES = 3


@dataclass(frozen=True)
class Dataset:
    """A data set of the table.

    Attributes:
        name: Its name in the metafile.
        option: The option that gives its folder, without dashes.
        images: The number of images that published figures are of.
        page: The address that provides it.
        files: What to take from there.
    """

    name: str
    option: str
    images: int
    page: str
    files: str


@dataclass(frozen=True)
class Model:
    """A float model and its recipes: a row of the table.

    Attributes:
        name: The recipes' common name, such as ``deit_tiny_timm``.
        title: Its name in the table.
        dataset: The data set that it is evaluated on.
        bits: The bit widths to run, such as ``w8a8``.
        published: Published figures of the float model by metric, in percent.
        paper: Published figures of the quantized model by bits and metric, in percent, with the key of their source.
        selected: Whether the user asked for it by name.
    """

    name: str
    title: str
    dataset: Dataset
    bits: tuple[str, ...]
    published: dict[str, float]
    paper: dict[str, dict[str, tuple[float, str]]]
    selected: bool = False

    def recipe(self, bits: str) -> str:
        """The name of the recipe of a bit width."""
        return f"{self.name}_{bits}"


def sources() -> dict[str, str]:
    """Where the published figures stand, by the key that :attr:`Model.paper` holds."""
    return dict(load(packaged("configs/paper.yml"))["sources"])


def all_models() -> list[Model]:
    """The models of ``configs/metafile.yml``: those of the table in its order, then the others."""
    table = load(packaged("configs/paper.yml"))
    datasets = {name: Dataset(name, **about) for name, about in table["datasets"].items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in load(packaged("configs/metafile.yml"))["Models"]:
        found.setdefault(BITS.sub("", entry["Name"]), []).append(entry)
    rows = table["rows"]
    return [model(name, found[name], rows.get(name, {}), datasets) for name in dict.fromkeys([*rows, *found])]


def model(name: str, entries: list[dict[str, Any]], row: dict[str, Any], datasets: dict[str, Dataset]) -> Model:
    """A model of the metafile with its figures.

    Args:
        name: Its name.
        entries: Its recipes in the metafile.
        row: Its row in ``paper.yml``; empty if the table does not show it unless it is asked for.
        datasets: The data sets by name.
    """
    bits = [match[1] for entry in entries if (match := BITS.search(entry["Name"]))]
    results = entries[0]["Results"]
    published = {
        TITLES[key.removeprefix("FP ")]: figure
        for result in results
        for key, figure in result["Metrics"].items()
        if key.startswith("FP ") and key.removeprefix("FP ") in TITLES
    }
    paper = {
        width: {key: (figure, source) for source, figures in row[width].items() for key, figure in figures.items()}
        for width in bits
        if width in row
    }
    return Model(name, row.get("title", name), datasets[results[0]["Dataset"]], tuple(bits), published, paper)


def table_models() -> list[Model]:
    """The models that the table shows unless others are asked for."""
    names = load(packaged("configs/paper.yml"))["rows"]
    return [one for one in all_models() if one.name in names]


def chosen_models(patterns: Iterable[str]) -> list[Model]:
    """The models and bit widths that the user asks for.

    Args:
        patterns: Names of models (``deit_tiny_timm``) or of recipes (``deit_tiny_timm_w8a8``), also with ``*``.

    Returns:
        Them in the order of the table, marked as selected; those of the table without patterns.

    Raises:
        UsageError: No recipe has such a name.
    """
    patterns = list(patterns)
    if not patterns:
        return table_models()
    models, chosen = all_models(), []
    for pattern in patterns:
        if not any(matches(one, width, pattern) for one in models for width in one.bits):
            names = [name for one in models for name in (one.name, *map(one.recipe, one.bits))]
            near = difflib.get_close_matches(pattern, names, NEAR_NAMES) or [one.name for one in models]
            raise UsageError(f"no row is called {pattern}: choose from {', '.join(near)}")
    for one in models:
        bits = tuple(width for width in one.bits if any(matches(one, width, pattern) for pattern in patterns))
        if bits:
            chosen.append(replace(one, bits=bits, selected=True))
    return chosen


def matches(one: Model, bits: str, pattern: str) -> bool:
    """Whether a pattern names a model, or its recipe of a bit width."""
    return any(fnmatchcase(name, pattern) for name in (one.name, one.recipe(bits)))
