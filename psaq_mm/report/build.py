"""The contents of a report from a quantized model and the record of its run."""

from __future__ import annotations

import importlib
import json
import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..compat import versions
from ..quantization import CoverageReport
from ..visualization.samples import samples_picture
from .contents import Comparison, Histogram, Picture, Report
from .histograms import collect
from .inputs import GENERATED, MOST_PICTURES, inputs_of_files, inputs_of_images, picture_files
from .pictures import GRID_BYTES, GRID_SIDE, encoded
from .predictions import compare

T = TypeVar("T")
SHOWN_SAMPLES = 16
# Images for the histograms, one at a time, since memory is needed for no gradients but full-size models are large.
COUNTED = 16


@dataclass(frozen=True)
class Run:
    """What a report is made of.

    Attributes:
        title: Name of the recipe or of the model.
        teacher: The float model.
        student: The quantized model.
        images: The newest samples, ``(count, channels, H, W)``, as network inputs.
        coverage: The quantized and the float tensors.
        forward: Runs the student on a batch of samples so that the values pass through its quantizers.
        facts: See :class:`.Report`.
        command: See :class:`.Report`.
        rows: The rows of ``results.json``.
        no_figures: Why there are no figures.
        verdict: See :class:`.Report`.
        cfg: The config, whose test pipeline pictures go through.
        meta: ``classes`` and ``palette`` of the data set.
        pictures: The user's folder of pictures; empty for generated images.
        recipe: The ``dfq`` section as text.
        warn: Receives a line for each section that cannot be made.
    """

    title: str
    teacher: nn.Module
    student: nn.Module
    images: Tensor
    coverage: CoverageReport
    forward: Callable[[nn.Module, Tensor], Any]
    facts: dict[str, str]
    command: str
    rows: Sequence[dict[str, Any]] = ()
    no_figures: str = ""
    verdict: Sequence[str] = ()
    cfg: Any = None
    meta: dict[str, Any] = field(default_factory=dict)
    pictures: str = ""
    recipe: str = ""
    warn: Callable[[str], object] = logging.getLogger(__name__).warning


def report_of(run: Run) -> Report:
    """The report of a run. A section that cannot be made is left out, with the reason as its note and a warning."""
    notes: dict[str, str] = {}
    remarks: dict[str, str] = {}

    def attempt(section: str, make: Callable[[], T], otherwise: T) -> T:
        try:
            return make()
        except Exception as error:  # models of others can raise any exception, and the run must not be lost
            reason = without_home(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}")
            notes[section] = f"This section is left out ({reason})."
            run.warn(f"the report has no {section}: {reason}")
            return otherwise

    modes = [(model, model.training) for model in (run.teacher, run.student)]
    for model, _ in modes:
        model.eval()
    samples = attempt("samples", lambda: grid_of(run), None)
    comparisons: tuple[Comparison, ...] = attempt("predictions", lambda: tuple(comparisons_of(run, remarks)), ())
    histograms: tuple[Histogram, ...] = attempt("histograms", lambda: collect(run.student, lambda: count(run)), ())
    for model, mode in modes:
        model.train(mode)
    return Report(
        title=run.title,
        facts={name: without_home(value) for name, value in run.facts.items()},
        command=run.command,
        versions=all_versions(),
        rows=tuple(run.rows),
        no_figures=without_home(run.no_figures),
        verdict=tuple(run.verdict),
        samples=samples,
        comparisons=comparisons,
        coverage=tuple(json.loads(run.coverage.to_json())["rows"]),
        histograms=histograms,
        notes=notes,
        remarks=remarks,
        recipe=without_home(run.recipe),
    )


def grid_of(run: Run) -> Picture:
    """The newest samples in a grid."""
    images = run.images[-SHOWN_SAMPLES:].cpu()
    height, width = images.shape[-2:]
    title = (
        f"The newest {len(images)} images of {height} x {width} pixels, generated from the weights of the float model."
    )
    return encoded(samples_picture(images, run.teacher), title, title, GRID_BYTES, GRID_SIDE)


def comparisons_of(run: Run, remarks: dict[str, str]) -> list[Comparison]:
    """Predictions on the user's pictures, or on generated images; a remark says on which."""
    if run.pictures:
        files = picture_files(run.pictures)
        shown = files[:MOST_PICTURES]
        found = compare(inputs_of_files(shown, run.cfg, run.teacher, run.warn), run.teacher, run.student, run.meta)
        which = "" if len(files) == len(shown) else f"first {len(shown)} of "
        remarks["predictions"] = f"On the {which}{len(files)} pictures that were given."
        return found
    found = compare(inputs_of_images(run.images[-GENERATED:], run.teacher), run.teacher, run.student, run.meta)
    remarks["predictions"] = "On generated images."
    return found


def count(run: Run) -> None:
    """Run the student on samples."""
    device = next(run.teacher.parameters()).device
    for batch in run.images[-COUNTED:].split(1):
        run.forward(run.student, batch.to(device))


def all_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages that results depend on."""
    # Not imported at the top: the package's own module imports the API, which imports this one.
    own = importlib.import_module(__package__.partition(".")[0]).__version__
    return {"psaq_mm": own, "python": platform.python_version(), **versions()}


def command_line() -> str:
    """The command of this process."""
    return shlex.join(["python", *sys.argv])


def call_text(model: Any, settings: dict[str, Any]) -> str:
    """The call of the Python API, for the report's command.

    Args:
        model: Its first argument.
        settings: The other arguments; those that are None or empty are left out.
    """
    name = repr(str(model)) if isinstance(model, (str, Path)) else type(model).__name__
    given = [f"{key}={value!r}" for key, value in settings.items() if value not in (None, "", {})]
    return f"psaq_mm.quantize({', '.join([name, *given])})  # in Python"


def conditions(device: torch.device) -> dict[str, str]:
    """Device and threads, for the facts of a report."""
    threads = torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu}


def without_home(text: str) -> str:
    """Text in which paths below the current folder are relative to it, and those below the home folder begin with ~."""
    here, home = os.getcwd(), str(Path.home())
    text = text.replace(here + os.sep, "") if here != os.sep else text
    return text.replace(home + os.sep, "~" + os.sep) if home != os.sep else text
