"""Comparison of deployed models with the simulation, by feature maps and by the host's evaluation."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from ..deployment import RuntimeBackbone
from ..deployment.artifact import Artifact
from ..deployment.export import FORMATS, RUNS_ON, export
from ..errors import UsageError
from ..models import backbone_outputs
from ..quantization import sqnr
from ..utils.metrics import metric_of
from .dataset_checks import needed, readable
from .evaluation import evaluate

WIDTHS = {"weight_bits": 8, "activation_bits": 8}


def check_parity(
    name: str, artifact: Artifact, checkpoint: Path, size: tuple[int, int], engines: Sequence[str], images: int = 8
) -> Iterator[dict[str, Any]]:
    """Export a model for each engine and compare it with the simulation in torch.

    Args:
        name: Name of the model in the rows.
        artifact: The quantized model; its config's test set is used.
        checkpoint: The checkpoint of the artifact.
        size: Height and width of the exported model.
        engines: Names of engines, ``'onnxruntime'`` or ``'openvino'``.
        images: Number of test images for the comparison of feature maps.

    Yields:
        A row for the simulation and for every engine: ``{"model", "bits", "size", "engine", "sqnr_db", "metrics"}``.
        ``sqnr_db`` is the lowest signal-to-noise ratio over the levels of the feature maps, with the simulation as
        reference (None for the simulation itself); ``metrics`` are the evaluator's.

    Raises:
        UsageError: The config has no test set, or its model no separate backbone.
        ExportError: An engine is not installed, or the images are larger than the exported size.
    """
    cfg = artifact.cfg
    if not cfg.get("test_dataloader"):
        raise UsageError(f"{cfg.filename} names no test set: nothing can be evaluated")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        batches = list(first_batches(artifact, images))
        expected = [simulated(artifact, batch) for batch in batches]
        bits = "w{weight_bits}a{activation_bits}".format(**{**WIDTHS, **artifact.quantization})
        row = {"model": name, "bits": bits, "size": f"{size[0]}x{size[1]}"}
        # All exports come first, so that they fail before a long evaluation.
        deployed: dict[str, tuple[Path, Path, float]] = {}
        for engine in engines:
            kind = next(kind for kind, runs_on in RUNS_ON.items() if runs_on == engine)
            target = folder / f"{engine}{FORMATS[kind]}"
            written = export(artifact, target, kind, [size])
            if len(written) < 3:
                raise UsageError(
                    "this model has no separate backbone, so no host tool runs its export: use tools/export.py alone"
                )
            backbone = RuntimeBackbone(str(target), engine)
            found = [list(backbone(batch)) for batch in batches]
            config, rest = written[-2:]
            deployed[engine] = config, rest, round(lowest_sqnr(expected, found), 1)
        metrics = figures(cfg, checkpoint, folder / "simulation")
        yield {**row, "engine": "simulation", "sqnr_db": None, "metrics": metrics}
        for engine, (config, rest, noise) in deployed.items():
            metrics = figures(Config.fromfile(config), rest, folder / engine)
            yield {**row, "engine": engine, "sqnr_db": noise, "metrics": metrics}


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


@torch.no_grad()
def simulated(artifact: Artifact, batch: Tensor) -> list[Tensor]:
    """The feature maps of the simulation."""
    return backbone_outputs(artifact.model, batch)


def lowest_sqnr(expected: Iterable[list[Tensor]], found: Iterable[list[Tensor]]) -> float:
    """The lowest SQNR in dB over the levels, each computed over all batches."""
    levels = zip(*expected, strict=True), zip(*found, strict=True)
    return min(
        sqnr(torch.cat([one.flatten() for one in ours]), torch.cat([one.flatten() for one in theirs]))
        for ours, theirs in zip(*levels, strict=True)
    )


def figures(cfg: Config, checkpoint: Path, folder: Path) -> dict[str, float]:
    """The metrics of the host's evaluation that tables show."""
    found = evaluate(cfg, checkpoint, folder)
    return {key: round(value, 4) for key, value in found.items() if isinstance(value, float) and metric_of(key)}
