"""What :func:`psaq_mm.quantize` returns."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..engine.analysis.verdict import RECIPE, Verdict
from ..in_memory import save_model
from ..quantization import CoverageReport
from ..report import write_model_report
from ..utils.atomic_files import save_json, save_with, writable_folder
from ..visualization.samples import samples_picture

FILES = ("quantized.py", "quantized.pth", "coverage.json", "results.json", "samples.pth", "samples.png", RECIPE)
REPORT = ("report.json", "report.html")


@dataclass(frozen=True)
class Samples:
    """The images that the model was quantized with.

    Attributes:
        images: ``(count, channels, H, W)``, as network inputs.
        model: The float model; its data preprocessor defines the pixel values of the images.
    """

    images: Tensor
    model: nn.Module

    def __repr__(self) -> str:
        return f"Samples({len(self.images)} images of {tuple(self.images.shape[1:])})"

    def picture(self, count: int = 16) -> Any:
        """The newest images in a grid, as a PIL image, which notebooks display.

        Args:
            count: Number of images.
        """
        from PIL import Image

        return Image.fromarray(samples_picture(self.images[-count:], self.model))


@dataclass(frozen=True)
class Result:
    """A quantized model and the record of its quantization.

    Attributes:
        model: The quantized model in eval mode; an instance of the float model's own class.
        metrics: The evaluator's metrics, ``{'float': {...}, 'quantized': {...}}``; None without an evaluation.
        coverage: The quantized tensors and, for each float tensor, the reason why it is float.
        samples: The generated images.
        work_dir: The folder of the run; None for a model in memory.
        quantization: The keys of the policy that was applied.
        verdict: What the run shows without labels: the expected loss, the layers with the largest errors, and overrides
            for them; None for a model in memory.
        owner: Keeps a temporary ``work_dir`` until the result is deleted.
    """

    model: nn.Module
    metrics: dict[str, dict[str, Any]] | None
    coverage: CoverageReport
    samples: Samples
    work_dir: Path | None
    quantization: dict[str, Any]
    verdict: Verdict | None = None
    owner: Any = None

    def __repr__(self) -> str:
        parts = [type(self.model).__name__, "W{weight_bits}A{activation_bits}".format(**self.quantization)]
        parts.append(f"{self.coverage.quantized} tensors quantized, {self.coverage.fp} in floating point")
        return f"Result({', '.join(parts)}, metrics={self.metrics})"

    def save(self, folder: str | Path) -> Path:
        """Write the model in a form that :func:`load` reads and, for models of a config, also the hosts' own tools.

        For a model of a config these are ``quantized.py`` and ``quantized.pth``, which the test tools of mmdet, mmseg
        and mmpretrain read, ``coverage.json``, ``results.json``, the samples and the report. For a model in memory they
        are ``quantized.pth``, ``coverage.json``, ``samples.png`` and the report.

        Args:
            folder: The folder to write to. It is created if it does not exist; existing files are replaced.

        Returns:
            The folder.

        Raises:
            UsageError: The folder is not writable.
            PSAQError: A file cannot be written.
        """
        target = writable_folder(Path(folder))
        if self.work_dir is None:
            save_model(self.model, self.quantization, target)
            save_json(json.loads(self.coverage.to_json()), target / "coverage.json")
            save_with(lambda path: self.samples.picture().save(path), target / "samples.png")
            write_model_report(self.model, self.samples.model, self.samples.images, self.coverage, target)
            return target
        for name in (*FILES, *REPORT):
            source = self.work_dir / name
            if source.exists() and source.resolve() != (target / name).resolve():
                save_with(partial(shutil.copyfile, source), target / name)
        return target
