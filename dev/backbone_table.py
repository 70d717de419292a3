"""The backbones that adapters declare as a table: their adapter, their use, and what ran on trained weights.

Classes come from the adapters, recipes from ``configs/``, numbers of configs from ``results/zoo.json``; what was run is
noted here by hand.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

from dev.zoo.record import ZooRecord
from psaq_mm.models import adapters
from psaq_mm.models.hosts import short_name
from psaq_mm.utils.config_lookup import packaged_configs
from psaq_mm.visualization.record_tables import markdown

TASKS = {"mmdet": "detection", "mmseg": "segmentation", "mmpretrain": "classification"}
HEAD = ["class", "adapter", "tasks", "recipes", "trained weights"]
RESULTS = "[results](results.md)"
# Runs from a trained checkpoint to the figures of the quantized model, and what else a reader should know.
WHOLE_RUNS = {
    "mmdet.SwinTransformer": RESULTS,
    "mmpretrain.VisionTransformer": f"{RESULTS}, classification only; `mask_rcnn_deit_s` has no public checkpoint",
    "mmseg.SwinTransformer": RESULTS,
    "mmseg.VisionTransformer": RESULTS,
    "mmpretrain.TimmClassifier": f"DeiT-T: {RESULTS}",
}


def backbone_table(record: ZooRecord) -> str:
    """One row a declared class, by library and name.

    Args:
        record: The runs of the libraries' configs, which says how many configs of a task use a class; may be empty.
    """
    used = configs_by_task(record)
    rows = []
    for kind, module in sorted(declared().items(), key=place):
        recipes = [name for name, backbone, _ in all_recipes() if backbone == kind]
        tasks = {TASKS[kind.partition(".")[0]]: 0} | used.get(kind, {})
        tasks |= {task: tasks.get(task, 0) for _, backbone, task in all_recipes() if backbone == kind}
        cells = [f"{task} ({tasks[task]})" if tasks[task] else task for task in TASKS.values() if task in tasks]
        names = " ".join(f"`{name}`" for name in recipes)
        rows.append([f"`{kind}`", f"`{module}`", ", ".join(cells), names or "-", WHOLE_RUNS.get(kind, "-")])
    return markdown(HEAD, rows, left=len(HEAD))


def place(item: tuple[str, str]) -> tuple[int, str]:
    """Where a row stands: by library, then by name without regard to case."""
    library, _, name = item[0].partition(".")
    return list(TASKS).index(library), name.lower()


def declared() -> dict[str, str]:
    """The classes that adapters declare as backbones or classifiers, with the adapter's file.

    Example: ``{'mmpretrain.TNT': 'plain/tnt.py', …}``.
    """
    found = {}
    for info in pkgutil.walk_packages(adapters.__path__, f"{adapters.__name__}."):
        if not info.ispkg:
            file = info.name.removeprefix(f"{adapters.__name__}.").replace(".", "/")
            names = declared_in(importlib.import_module(info.name))
            found.update(dict.fromkeys(map(short_name, names), f"{file}.py"))
    return found


def declared_in(module: ModuleType) -> Iterator[str]:
    """The full names that a module's declarations give as backbones and classifiers.

    Read from its source, since a declaration does not know its file.
    """
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Adapter":
            for keyword in node.keywords:
                if keyword.arg in ("backbones", "classifiers"):
                    yield from eval(compile(ast.Expression(keyword.value), module.__name__, "eval"), vars(module))


@functools.cache
def all_recipes() -> list[tuple[str, str, str]]:
    """The recipes: name without bits, library and class of the backbone, task."""
    from mmengine.config import Config

    found = []
    for name, path in packaged_configs().items():
        if name.endswith("_w8a8"):
            cfg = Config.fromfile(path)
            kind = cfg.model.get("backbone", cfg.model).type
            kind = kind if "." in kind else f"{cfg.default_scope}.{kind}"
            found.append((name.removesuffix("_w8a8"), kind, TASKS[cfg.default_scope]))
    return found


def configs_by_task(record: ZooRecord) -> dict[str, Counter[str]]:
    """How many configs of the libraries use a class, by the task of the library that ships them."""
    found: dict[str, Counter[str]] = {}
    for row in record.rows:
        found.setdefault(row["backbone"], Counter())[TASKS[row["library"]]] += len(row["covers"])
    return found
