"""Comparison of deployed models with the simulation, by their outputs and by the host's evaluation."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from ..deployment import RuntimeBackbone, open_session
from ..deployment.artifact import Artifact
from ..deployment.export import FORMATS, RUNS_ON, export, file_of
from ..deployment.parts import IMAGES, StaticPart
from ..deployment.runtime import run_rois
from ..errors import UsageError
from ..models import calibration_function
from ..models.features.detectors import tensors
from ..quantization import sqnr
from ..utils.metrics import metric_of
from .dataset_checks import needed, readable
from .evaluation import evaluate

WIDTHS = {"weight_bits": 8, "activation_bits": 8}


def check_parity(
    name: str,
    artifact: Artifact,
    checkpoint: Path,
    sizes: Sequence[tuple[int, int]],
    engines: Sequence[str],
    images: int = 8,
    part: str = "backbone",
) -> Iterator[dict[str, Any]]:
    """Export a model for each engine and compare it with the simulation in torch.

    Args:
        name: Name of the model in the rows.
        artifact: The quantized model; its config's test set is used.
        checkpoint: The checkpoint of the artifact.
        sizes: Heights and widths of the exported images.
        engines: Names of engines, ``'onnxruntime'`` or ``'openvino'``.
        images: Number of test images for the comparison of outputs.
        part: What is exported, a key of :data:`psaq_mm.deployment.artifact.PARTS`.

    Yields:
        A row for the float model if the run that left the checkpoint has recorded its figures, one for the simulation
        and one for every engine: ``{"model", "bits", "size", "part", "engine", "sqnr_db", "metrics"}``. ``sqnr_db`` is
        the lowest signal-to-noise ratio over the outputs of all files, with the simulation as reference (None for the
        first two rows); ``metrics`` are the evaluator's.

    Raises:
        UsageError: The config has no test set, or its model no separate backbone.
        ExportError: An engine is not installed, or the images are larger than the exported size.
    """
    cfg = artifact.cfg
    if not cfg.get("test_dataloader"):
        raise UsageError(f"{cfg.filename} names no test set: nothing can be evaluated")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = artifact.parts(part)
        inputs = part_inputs(artifact, parts, first_batches(artifact, images))
        bits = "w{weight_bits}a{activation_bits}".format(**{**WIDTHS, **artifact.quantization})
        labels = " ".join(f"{height}x{width}" for height, width in sizes)
        row = {"model": name, "bits": bits, "size": labels, "part": part}
        # All exports come first, so that they fail before a long evaluation.
        deployed: dict[str, tuple[Path, Path, float]] = {}
        for engine in engines:
            kind = next(kind for kind, runs_on in RUNS_ON.items() if runs_on == engine)
            target = folder / f"{engine}{FORMATS[kind]}"
            written = export(artifact, target, kind, sizes, part=part)
            if written[-1].suffix != ".pth":
                raise UsageError(
                    "this model has no separate backbone, so no host tool runs its export: use --part model"
                )
            files = {one.name: [file_of(target, one, size) for size in several(sizes)] for one in parts}
            noise = min(parts_sqnr(one, files[one.name], engine, inputs[one.name]) for one in parts)
            deployed[engine] = written[-2], written[-1], round(noise, 1)
        recorded = float_figures(checkpoint)
        if recorded:
            yield {**row, "engine": "float", "sqnr_db": None, "metrics": recorded}
        metrics = figures(cfg, checkpoint, folder / "simulation")
        yield {**row, "engine": "simulation", "sqnr_db": None, "metrics": metrics}
        for engine, (config, rest, noise) in deployed.items():
            metrics = figures(Config.fromfile(config), rest, folder / engine)
            yield {**row, "engine": engine, "sqnr_db": noise, "metrics": metrics}


def several(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int] | None]:
    """The sizes that file names contain: none if there is only one."""
    return list(sizes) if len(sizes) > 1 else [None]


def float_figures(checkpoint: Path) -> dict[str, float]:
    """The float model's metrics in the ``results.json`` beside a checkpoint; empty if there are none."""
    record = checkpoint.resolve().with_name("results.json")
    rows = json.loads(record.read_text())["rows"] if record.is_file() else []
    return next((shown_metrics(row["metrics"]) for row in rows if row["arm"] == "fp32"), {})


@torch.no_grad()
def part_inputs(artifact: Artifact, parts: Sequence[StaticPart], batches: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """What each part gets from the first test images: the images, and features of the simulation's own RoIs."""
    model = artifact.model
    found: dict[str, list[Tensor]] = {part.name: [] for part in parts}
    heads = [part for part in parts if part.name != IMAGES]
    run = calibration_function("model", model) if heads else None
    handles = [
        model.get_submodule(part.covers[0]).register_forward_pre_hook(
            lambda _, args, name=part.name: found[name].append(args[0])
        )
        for part in heads
    ]
    for batch in batches:
        found[IMAGES].append(batch)
        if run is not None:
            run(model, batch)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def parts_sqnr(part: StaticPart, files: Sequence[Path], engine: str, inputs: Sequence[Tensor]) -> float:
    """The lowest SQNR in dB of a part's outputs in an engine against the simulation, each over all inputs."""
    if part.input_shape is None:
        backbone = RuntimeBackbone([str(file) for file in files], engine)
        found = [list(tensors(backbone(one))) for one in inputs]
    else:
        session = open_session(engine, files[0])
        found = [list(tensors(run_rois(session, one))) for one in inputs]
    return lowest_sqnr([list(part.graph(one)) for one in inputs], found)


def first_batches(artifact: Artifact, images: int) -> Iterator[Tensor]:
    """The first images of the test set in batches, as inputs of the backbone."""
    described = copy.deepcopy(artifact.cfg.test_dataloader)
    described.update(num_workers=0, persistent_workers=False)
    preprocess: Any = artifact.model.data_preprocessor
    seen = 0
    with needed(described["dataset"]):
        with readable(described["dataset"]):
            loader = Runner.build_dataloader(described)
        for data in loader:
            batch = preprocess(data, False)["inputs"]
            yield batch[: images - seen]
            seen += len(batch)
            if seen >= images:
                return


def lowest_sqnr(expected: Iterable[list[Tensor]], found: Iterable[list[Tensor]]) -> float:
    """The lowest SQNR in dB over the levels, each computed over all batches."""
    levels = zip(*expected, strict=True), zip(*found, strict=True)
    return min(
        sqnr(torch.cat([one.flatten() for one in ours]), torch.cat([one.flatten() for one in theirs]))
        for ours, theirs in zip(*levels, strict=True)
    )


def figures(cfg: Config, checkpoint: Path, folder: Path) -> dict[str, float]:
    """The metrics of the host's evaluation that tables show."""
    return shown_metrics(evaluate(cfg, checkpoint, folder))


def shown_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that tables show, rounded."""
    return {key: round(value, 4) for key, value in found.items() if isinstance(value, float) and metric_of(key)}
