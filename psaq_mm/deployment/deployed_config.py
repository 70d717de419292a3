"""The config and the checkpoint with which the hosts' tools run exported files."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..models.hosts import named
from ..utils.atomic_files import save_tensors, save_with
from .artifact import Artifact
from .parts import IMAGES, TRAINING_PARTS
from .runtime import layers_of


@dataclass(frozen=True)
class ExportedPart:
    """A part of a model and its file.

    Attributes:
        name: ``'images'``, or the name of a head in ``roi_head``.
        covers: Names of the modules that it contains, in the whole model.
        file: The file's name; it stands beside the config.
    """

    name: str
    covers: tuple[str, ...]
    file: str


@dataclass(frozen=True)
class Deployment:
    """The config and the checkpoint with which the host's tools run exported files.

    Attributes:
        text: The text of the config.
        checkpoint: ``meta`` and the weights of all parts that are not exported.
    """

    text: str
    checkpoint: dict[str, Any]

    def save(self, target: Path) -> tuple[Path, Path]:
        """Write ``NAME.py`` and ``NAME.pth`` beside an exported file, and return their paths."""
        config, checkpoint = target.with_suffix(".py"), target.with_suffix(".pth")
        save_with(lambda path: path.write_text(self.text, encoding="utf-8"), config)
        save_tensors(self.checkpoint, checkpoint)
        return config, checkpoint


def deployment_of(artifact: Artifact, engine: str, parts: Sequence[ExportedPart]) -> Deployment:
    """Make the config and the checkpoint of a deployment.

    Args:
        artifact: The quantized model.
        engine: The engine that runs the files.
        parts: The exported parts; that of the images has an entry for each size.
    """
    plain = copy.deepcopy(artifact.cfg.to_dict())
    covers = tuple(dict.fromkeys(name for part in parts for name in part.covers))
    whole = any(name not in ("backbone", "neck") for name in covers)
    plain["model"] = model_config(plain["model"], parts, engine, whole)
    if not whole and "quantization" in plain["model"]:  # scope model: the other parts stay quantized in torch
        plain["model"]["quantization"] = quantization_without(artifact, covers)
    text = Config(plain).pretty_text
    for part in parts:
        text = text.replace(repr(placeholder(part.file)), beside_the_config(part.file))
    return Deployment(text, {"meta": artifact.meta, "state_dict": kept_state(artifact, covers, whole)})


def model_config(model: dict[str, Any], parts: Sequence[ExportedPart], engine: str, whole: bool) -> dict[str, Any]:
    """The model's config with exported files in place of its parts.

    Args:
        model: The config of the quantized model; changed in place.
        parts: The exported parts.
        engine: The engine that runs the files.
        whole: Whether no computation of the host is left but that between the parts.
    """
    files = [placeholder(part.file) for part in parts if part.name == IMAGES]
    backbone = {"type": "psaq_mm.RuntimeBackbone", "file": files[0] if len(files) == 1 else files, "engine": engine}
    covers = {name for part in parts for name in part.covers}
    if "model" in covers:
        return without_backbone(model, backbone)
    if whole and "quantization" in model:
        model["type"] = model.pop("host")
        del model["quantization"]
    model["backbone"] = backbone
    if "neck" in covers:
        model["neck"] = None
    if whole:
        for name in TRAINING_PARTS:
            model.pop(name, None)
    for name in {name.partition(".")[0] for name in covers} - {"backbone", "neck", "roi_head"}:
        key = name if name in model else "rpn_head"  # the key of mmdet's RPN, which names the module bbox_head
        cascade = isinstance(model[key], list)
        model[key] = [runtime_head(one) for one in model[key]] if cascade else runtime_head(model[key])
    rois = {part.name: placeholder(part.file) for part in parts if part.name != IMAGES}
    for kind in dict.fromkeys(name.partition(".")[0] for name in rois):
        described = model["roi_head"][kind]
        if kind in rois:
            model["roi_head"][kind] = runtime_head(described, file=rois[kind], engine=engine)
            continue
        # One config may stand for all stages of a cascade.
        stages = (
            described if isinstance(described, list) else [described] * len([n for n in rois if n.startswith(kind)])
        )
        model["roi_head"][kind] = [
            runtime_head(one, file=rois[f"{kind}.{index}"], engine=engine) for index, one in enumerate(stages)
        ]
    return model


def without_backbone(model: dict[str, Any], backbone: dict[str, Any]) -> dict[str, Any]:
    """The config of a classifier that runs a file from image to class scores, in place of a TimmClassifier."""
    head = {"type": "psaq_mm.RuntimeHead", "host": "mmpretrain.ClsHead"}
    kept = {key: model[key] for key in ("data_preprocessor", "train_cfg") if model.get(key) is not None}
    if "loss" in model:
        head["loss"] = model["loss"]
    return {"type": "mmpretrain.ImageClassifier", "backbone": backbone, "head": head, **kept}


def runtime_head(head: dict[str, Any], **options: str) -> dict[str, Any]:
    """The config of a head whose results come from a file."""
    arguments = copy.deepcopy(head)  # with _scope_, in which the head's class, losses and layers are looked up
    host = named(arguments.pop("type"))
    arguments.pop("init_cfg", None)
    return {"type": "psaq_mm.RuntimeHead", "host": host, **options, **arguments}


def kept_state(artifact: Artifact, covers: Sequence[str], whole: bool) -> dict[str, Any]:
    """The entries of the state dict that the deployed model has.

    Heads keep the constants that stand beside their layers and that the host's code uses.
    """
    if "model" in covers:
        return {}
    dropped = [*TRAINING_PARTS] if whole else []
    for name in covers:
        layers = layers_of(artifact.model.get_submodule(name))
        dropped += [name] if name in ("backbone", "neck") else [f"{name}.{child}" for child in layers]
    return {key: one for key, one in artifact.state.items() if not any(is_inside(key, name) for name in dropped)}


def is_inside(key: str, name: str) -> bool:
    """Whether a key of a state dict belongs to a module, or is the tensor of this name."""
    return key == name or key.startswith(f"{name}.")


def placeholder(file: str) -> str:
    """Stands for the path of a file until the config's text is written."""
    return f"<beside the config: {file}>"


def beside_the_config(name: str) -> str:
    """A Python expression, for the text of a config, for the path of a file in the config's folder.

    mmengine replaces ``fileDirname`` by the folder before it parses the text, so the files can be moved together.
    Triple quotes allow folders with a quote in their names (``O'Brien``); mmengine turns backslashes into slashes.
    """
    return "r'''{{ fileDirname }}''' + " + repr("/" + name)


def quantization_without(artifact: Artifact, parts: Sequence[str]) -> dict[str, Any]:
    """The quantization of the parts that are not exported, without overrides that would match no module of these."""
    left = [name for name, _ in artifact.model.named_modules() if name and name.partition(".")[0] not in parts]
    overrides = artifact.quantization.get("overrides") or ()
    kept = [one for one in overrides if any(fnmatchcase(name, one["pattern"]) for name in left)]
    return {**artifact.quantization, "overrides": kept}
