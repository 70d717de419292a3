"""How fast a deployed backbone is: torch and every engine, float and integers, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved, ratio, threads
from psaq_mm.deployment import ENGINES, ExportWrapper, by_kind, onnx_model, open_session, quantized_onnx, save_onnx
from psaq_mm.deployment.export import save_openvino
from psaq_mm.models import check_image_size, image_channels
from psaq_mm.quantization import calibrating, freeze
from psaq_mm.utils.memory import memory_growth

FLOAT, SIMULATED, INTEGER = "fp32", "fake_quantize", "int8"
SUFFIX = {"onnxruntime": ".onnx", "openvino": ".xml"}
# name -> (slower, faster) as (engine, precision)
SPEEDUPS = {
    "openvino fp32 / int8": (("openvino", FLOAT), ("openvino", INTEGER)),
    "onnxruntime fp32 / int8": (("onnxruntime", FLOAT), ("onnxruntime", INTEGER)),
    "torch fp32 / openvino int8": (("torch", FLOAT), ("openvino", INTEGER)),
    "torch fp32 / onnxruntime int8": (("torch", FLOAT), ("onnxruntime", INTEGER)),
    "torch fake_quantize / fp32": (("torch", SIMULATED), ("torch", FLOAT)),
}

Contender = tuple[str, str]


def export_pair(teacher: nn.Module, student: nn.Module, size: tuple[int, int], folder: Path) -> dict[Contender, Path]:
    """Export both backbones for every engine: ``folder/{fp32,int8}.{onnx,xml}``."""
    files = {}
    for precision, make, model in ((FLOAT, onnx_model, teacher), (INTEGER, quantized_onnx, student)):
        proto = make(model, size)
        for engine in ENGINES:
            path = folder / f"{precision}{SUFFIX[engine]}"
            if engine == "openvino":
                save_openvino(proto, path)
            else:
                save_onnx(proto, path)
            files[engine, precision] = path
    return files


class DeployBenchmark:
    """Times a recipe's backbone in torch and in every engine, and writes what it finds.

    Args:
        name: What the rows call the model.
        teacher: The float backbone.
        student: The quantized one; it is calibrated here, on noise, since ranges change no time.
        size: Height and width of the images.
        folder: For the exported files.
        cores: How many threads torch and the engines get.
    """

    def __init__(
        self,
        name: str,
        teacher: ExportWrapper,
        student: ExportWrapper,
        size: tuple[int, int],
        folder: Path,
        cores: int,
    ) -> None:
        check_image_size(teacher.parts[0], size)
        self.name, self.size, self.threads = name, size, cores
        shape = 1, image_channels(teacher.parts[0]), *size
        self.images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with calibrating(student), torch.no_grad():
            student(self.images)
        freeze(student)
        self.models = {("torch", FLOAT): teacher, ("torch", SIMULATED): student}
        self.files = export_pair(teacher, student, size, folder)
        self.memory: dict[Contender, float | None] = {}

    def contenders(self) -> dict[str, Callable[[], object]]:
        """What is timed; opening each, and running it once, measures its memory."""
        calls: dict[str, Callable[[], object]] = {}
        images = self.images.numpy()
        for (engine, precision), model in self.models.items():
            weights = sum(one.numel() * one.element_size() for one in [*model.parameters(), *model.buffers()])
            with memory_growth() as grown:
                forward(model, self.images)
            self.memory[engine, precision] = grown[0] + weights / 2**20 if grown else None
            calls[f"{engine} {precision}"] = partial(forward, model, self.images)
        for (engine, precision), path in self.files.items():
            with memory_growth() as grown:
                session = open_session(engine, path, self.threads)
                session.run(images)
            self.memory[engine, precision] = grown[0] if grown else None
            calls[f"{engine} {precision}"] = partial(session.run, images)
        return calls

    def run(self, rounds: int) -> dict[str, Any]:
        """Time everything.

        Args:
            rounds: How often; figures are medians.

        Returns:
            ``{"rows", "ratios", "profile"}``, see :mod:`psaq_mm.utils.records`.
        """
        with threads(self.threads):
            seconds = interleaved(self.contenders(), rounds)
        size = f"{self.size[0]}x{self.size[1]}"
        rows = [
            {
                "model": self.name,
                "size": size,
                "engine": engine,
                "precision": precision,
                "rounds": rounds,
                "seconds_median": round(statistics.median(seconds[f"{engine} {precision}"]), 5),
                "seconds_quartiles": [round(one, 5) for one in quartiles(seconds[f"{engine} {precision}"])],
                "file_mib": round(file_mib(path), 3) if (path := self.files.get((engine, precision))) else None,
                "memory_mib": None if (grown := self.memory[engine, precision]) is None else round(grown, 1),
            }
            for engine, precision in [*self.models, *self.files]
        ]
        label = f"{self.name} {size}: "
        ratios = {
            label + name: round(ratio(seconds[" ".join(slow)], seconds[" ".join(fast)]), 3)
            for name, (slow, fast) in SPEEDUPS.items()
        }
        for engine in ENGINES:
            share = file_mib(self.files[engine, INTEGER]) / file_mib(self.files[engine, FLOAT])
            ratios[f"{label}{engine} file int8 / fp32"] = round(share, 3)
        profile = {label + " ".join(contender): self.profile(contender, rounds) for contender in self.files}
        return {"rows": rows, "ratios": ratios, "profile": profile}

    def profile(self, contender: Contender, rounds: int) -> dict[str, float]:
        """Where an engine's time goes: seconds of a pass by kind of operator, which timing itself slows down."""
        session = open_session(contender[0], self.files[contender], self.threads, profile=True)
        taken = by_kind(session.profile([self.images.numpy()], rounds))
        return {kind: round(seconds, 6) for kind, seconds in taken.items()}


@torch.no_grad()
def forward(model: nn.Module, images: Tensor) -> object:
    """A forward as evaluation does it."""
    return model(images)


def quartiles(values: Sequence[float]) -> list[float]:
    """First and third quartile; the value itself twice where there is only one."""
    if len(values) == 1:
        return [values[0], values[0]]
    cuts = statistics.quantiles(values, n=4, method="inclusive")
    return [cuts[0], cuts[2]]


def file_mib(path: Path) -> float:
    """Size of a model on disk; OpenVINO's are two files."""
    weights = path.with_suffix(".bin")
    return (path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)) / 2**20
