"""Start-up of a deployed model in a process of its own: seconds to load it, and memory up to its first predictions.

``python -m benchmarks.model_startup`` is that process: it reads what to load from the command line as JSON and writes a
line of JSON. The libraries are imported before the clock starts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from benchmarks.model_files import CONFIG, ENGINE_OF, Contender, load_model
from benchmarks.model_run import FixedRois, fix_rois, predict, sample_of
from psaq_mm.cli import import_host
from psaq_mm.errors import PSAQError
from psaq_mm.utils.memory import memory_growth

ROOT = Path(__file__).parents[1]


def startup(
    contender: Contender,
    folder: Path,
    shape: tuple[int, int, int],
    cores: int,
    rois: FixedRois | None = None,
    repeats: int = 1,
) -> dict[str, float | None]:
    """Load a contender in fresh processes.

    Args:
        contender: Engine and precision.
        folder: Its folder.
        shape: Channels, height and width of the image.
        cores: Threads.
        rois: How many boxes a two-stage detector goes on with.
        repeats: How many processes.

    Returns:
        ``seconds_load``, until the model is built, and ``seconds_first``, of the first prediction, both medians;
        ``memory_mib``: by how much the resident memory exceeds that before the model is loaded, at its highest; None on
        systems other than Linux.

    Raises:
        PSAQError: The process failed.
    """
    job = {"engine": contender[0], "folder": str(folder), "shape": shape, "threads": cores}
    job["rois"] = rois and rois.to_dict()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    found: list[dict[str, float | None]] = []
    for _ in range(repeats):
        command = [sys.executable, "-m", "benchmarks.model_startup", json.dumps(job)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PSAQError(f"{' '.join(contender)} cannot be loaded in a process of its own ({said}): see its folder")
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {key: middle([one[key] for one in found]) for key in found[0]}


def middle(values: list[float | None]) -> float | None:
    """The median of what is known."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


@torch.no_grad()
def measure(job: dict[str, Any]) -> dict[str, float | None]:
    """Load a model and predict twice; see :func:`startup`."""
    torch.set_num_threads(job["threads"])
    folder, (channels, *size) = Path(job["folder"]), job["shape"]
    if job["engine"] in ENGINE_OF:
        import_module(ENGINE_OF[job["engine"]])
    cfg = Config.fromfile(folder / CONFIG)
    import_host(cfg)  # else the registries would import the libraries while the model is built
    images = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    with memory_growth() as grown:
        start = time.perf_counter()
        model = load_model(folder)
        loaded = time.perf_counter()
        if job["rois"] is not None:
            fix_rois(model, (size[0], size[1]), FixedRois(**job["rois"]))
        predict(model, (images, [sample_of(model, (size[0], size[1]))]))
        first = time.perf_counter()
        predict(model, (images, [sample_of(model, (size[0], size[1]))]))
    memory = grown[0] if grown else None
    return {"seconds_load": loaded - start, "seconds_first": first - loaded, "memory_mib": memory}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
