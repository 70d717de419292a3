"""The table of ``configs/README.md``, from ``model-index.yml`` and its metafiles: YAML to Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from psaq_mm.errors import PSAQError
from psaq_mm.visualization.record_tables import markdown

BLOCK = re.compile(r"(<!-- configs -->\n).*?(<!-- /configs -->)", re.DOTALL)
HEAD = ["name", "quantizes", "task", "data", "backbone", "bits", "FP", "psaq", "paper", "checkpoint"]
# The beginnings of the figures' names in the metafiles. FP: published with the model, or measured for models of this
# repository. psaq: measured. paper: published by the authors of PSAQ-ViT V2.
OWNERS = ("FP", "psaq", "paper")
REQUIRED = ("Name", "In Collection", "Config", "Metadata", "Results")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        PSAQError: It is missing, cannot be parsed, or holds no mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PSAQError(f"there is no {path}: give the folder of model-index.yml, or correct its Import") from None
    except yaml.YAMLError as error:
        raise PSAQError(f"{path} is no YAML ({error}): correct it") from None
    if not isinstance(loaded, dict):
        raise PSAQError(f"{path} holds no mapping: it needs Import, Collections or Models")
    return loaded


def read_models(root: Path) -> list[dict[str, Any]]:
    """The models of ``model-index.yml`` and of what it imports, as mim reads them.

    Args:
        root: The folder of ``model-index.yml``; paths in it and in its metafiles are relative to this folder.

    Raises:
        PSAQError: A file is missing or broken, a model lacks a key, names a collection that isn't there or has the
            name of another.
    """
    index = read_yaml(root / "model-index.yml")
    parts = [index, *(read_yaml(root / path) for path in index.get("Import") or ())]
    collections = {one["Name"] for part in parts for one in part.get("Collections") or ()}
    models: dict[str, dict[str, Any]] = {}
    for model in (model for part in parts for model in part.get("Models") or ()):
        missing = [key for key in REQUIRED if key not in model]
        if missing:
            raise PSAQError(f"the model index lacks {', '.join(missing)} of {model.get('Name', model)}: add it")
        if model["In Collection"] not in collections:
            raise PSAQError(
                f"{model['Name']} is in the collection {model['In Collection']!r}, which isn't listed: add it"
            )
        if model["Name"] in models:
            raise PSAQError(f"the model index lists {model['Name']} twice: keep one")
        models[model["Name"]] = model
    return list(models.values())


def bits(model: dict[str, Any]) -> str:
    """``W4A8``, or ``FP32`` for a float model."""
    weight, activation = (model["Metadata"][f"{what} Bits"] for what in ("Weight", "Activation"))
    return "FP32" if weight == 32 else f"W{weight}A{activation}"


def checkpoint(model: dict[str, Any]) -> str:
    """A link to the checkpoint that belongs to the config: a download, or a file below ``configs/``.

    Without one, the index's remark about it.
    """
    if "Weights" not in model:
        return model["Metadata"].get("Checkpoint", "-")
    weights = model["Weights"]
    return f"[download]({weights})" if "://" in weights else f"[included]({weights.removeprefix('configs/')})"


def table(models: list[dict[str, Any]]) -> str:
    """One row a config, in the order of the index."""
    rows = []
    for model in models:
        figures: dict[str, Any] = {}
        for result in model["Results"]:
            figures |= result.get("Metrics") or {}
        below = model["Config"].removeprefix("configs/")
        rows.append(
            [
                f"[`{model['Name']}`]({below})",
                f"`{model['Metadata']['Float Config']}`" if "Float Config" in model["Metadata"] else "-",
                ", ".join(dict.fromkeys(result["Task"].lower() for result in model["Results"])),
                ", ".join(dict.fromkeys(result["Dataset"] for result in model["Results"])),
                model["Metadata"]["Backbone"],
                bits(model),
                # One column for each owner, because every task has figures of its own.
                *(
                    ", ".join(f"{k.partition(' ')[2]} {v}" for k, v in figures.items() if k.startswith(owner)) or "-"
                    for owner in OWNERS
                ),
                checkpoint(model),
            ]
        )
    return markdown(HEAD, rows, left=len(HEAD))


def fill(text: str, models: list[dict[str, Any]]) -> str:
    """Write the table between its markers.

    Raises:
        PSAQError: There is no block ``<!-- configs -->`` … ``<!-- /configs -->``.
    """
    filled, blocks = BLOCK.subn(lambda match: f"{match[1]}\n{table(models)}\n\n{match[2]}", text)
    if not blocks:
        raise PSAQError("there is no block <!-- configs --> … <!-- /configs --> to fill: add one")
    return filled
