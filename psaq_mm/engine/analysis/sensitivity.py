"""The sensitivity of a model's tensors on generated images, as a run that can be interrupted."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from ...analysis.scores import SCORES
from ...deployment import check_engine, check_exporter
from ...errors import UsageError
from ...models import artifact_model, policy_of
from ...models.features import FeaturesAndLogits
from ...utils.atomic_files import writable_folder
from ..arms import real_dataset
from ..builder import build_student, keep_unreached
from ..loops.base import HookEvents
from ..recipe import recipe_of
from ..run_state import recipe_hash
from ..runner import DFQRunner
from .latency import BITS, LayerTimes, calls_of, deployment_function
from .latency import STAGE as LATENCY
from .measure import STAGE, measure
from .table import SensitivityTable, at_width, checked_widths, recipe_bits

SOURCES = ("generated", "real")
TENSORS = ("all", "weights", "activations")
# Seconds between two saved states.
INTERVAL = 10.0


class SensitivityRun:
    """Generates images, calibrates the model at each width, and quantizes one tensor after the other.

    The files are written every ten seconds; a run that is called again goes on with the missing rows.

    Args:
        cfg: The recipe. Its bits select the settings (``by_bits``) which all widths share.
        widths: Bit widths, 2 to 8 each.
        folder: Folder of ``sensitivity.json`` and ``sensitivity.csv``; the images and the log are written to its
            subfolder ``analysis``.
        images: Number of images on which the outputs are compared.
        batch_size: Images per forward pass.
        source: ``'generated'``, or ``'real'`` for images of the recipe's ``real_images`` or training set, as a
            comparison.
        tensors: ``'all'``, ``'weights'`` or ``'activations'``.
        scores: Further scores from gradients (:mod:`psaq_mm.analysis.scores`), for rows that are missing.
        engine: Where the time of each layer is measured too, ``'onnxruntime'`` or ``'openvino'``; None for nowhere.

    Raises:
        UsageError: A width, a number or the source is not valid, or the recipe has no real images.
        ExportError: The engine is unknown or not installed, or ONNX cannot be written.
    """

    def __init__(
        self,
        cfg: Config,
        widths: Sequence[int],
        folder: Path,
        images: int = 4,
        batch_size: int = 8,
        source: str = "generated",
        tensors: str = "all",
        scores: Sequence[str] = (),
        engine: str | None = None,
    ) -> None:
        chosen = checked_widths(widths)
        if images < 1 or batch_size < 1:
            raise UsageError("images and batch size of an analysis must be at least 1")
        if source not in SOURCES:
            raise UsageError(f"source {source!r} is unknown: use one of {', '.join(SOURCES)}")
        if tensors not in TENSORS:
            raise UsageError(f"tensors {tensors!r} are unknown: use one of {', '.join(TENSORS)}")
        for name in scores:
            SCORES.get(name)
        if engine is not None:
            check_engine(engine)
            check_exporter()
        self.tensors, self.scores, self.engine = tensors, tuple(scores), engine
        self.widths, self.images, self.batch_size, self.source = chosen, images, batch_size, source
        self.folder = writable_folder(folder)
        self.path = folder / "sensitivity.json"
        self.check_folder(str(cfg.filename))
        self.runner = DFQRunner.from_cfg(self.configured(cfg))
        self.saved = time.monotonic()

    def check_folder(self, config: str) -> None:
        """Check that the folder has no results of another config.

        Raises:
            UsageError: It has.
            PSAQError: An earlier ``sensitivity.json`` cannot be read.
        """
        found = SensitivityTable.load(self.path).config if self.path.exists() else ""
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = found or json.loads((self.folder / "results.json").read_text())["config"]
        if found and Path(found).name != Path(config).name:
            raise UsageError(f"{self.folder} has results of {found}: choose another --work-dir")

    def configured(self, cfg: Config) -> Config:
        """The recipe with the images of the analysis.

        Raises:
            UsageError: The recipe has no real images.
        """
        cfg = copy.deepcopy(cfg)
        cfg.dfq = recipe_of(cfg)
        cfg.work_dir = str(self.folder / "analysis")
        first = cfg.dfq.setdefault("generate", {})
        first.images = max(first.get("images", 32), self.images)
        if self.source == "real":
            dataset = real_dataset(cfg)
            if dataset is None:
                raise UsageError("source 'real' needs real_images in the config: a data set that is no test set")
            kept = {key: first[key] for key in ("images", "image_size") if key in first}
            cfg.dfq.generate = {"type": "psaq_mm.RealImagesLoop", "dataset": dataset, **kept}
        elif first.get("type", "psaq_mm.GenerateLoop").endswith("GenerateLoop"):
            seed = (cfg.get("randomness") or {}).get("seed") or 0
            settings = {"generate": first.to_dict(), "load_from": cfg.get("load_from")}
            name = f"images_{recipe_hash(cfg.model.to_dict(), settings, seed)[:12]}.pth"
            first.samples = str(writable_folder(Path(cfg.work_dir)) / name)
        cfg.update(dict.fromkeys(("test_dataloader", "test_evaluator", "test_cfg")))
        return cfg

    def run(self) -> SensitivityTable:
        """Measure the missing rows, and the missing times.

        Returns:
            All rows and times.

        Raises:
            PSAQError: The checkpoint or a file cannot be read.
            Terminated: SIGTERM was received; the rows so far are saved.
        """
        runner = self.runner
        runner.prepare()
        with runner.termination.listening():
            runner.run_stage("generate")
            images = runner.pool.first(self.images)
            table = self.table(images)
            self.measure(table, images.split(self.batch_size))
            if self.engine is not None:
                self.measure_times(table, self.engine, images[:1])
        runner.call_hook("after_run")
        return table

    def table(self, images: Tensor) -> SensitivityTable:
        """The rows of an earlier run with the same recipe, checkpoint and images, or an empty table."""
        runner = self.runner
        policy = runner.policy
        identity = recipe_hash(
            runner.cfg.model.to_dict(),
            {
                "quantization": runner.quantization,
                "calibrate": runner.options.get("calibrate", {}),
                "images": runner.pool.sha256(),
                "compared": len(images),
                "load_from": runner.cfg.load_from,
            },
            runner.seed,
        )
        height, width = images.shape[-2:]
        table = SensitivityTable(
            str(runner.cfg.filename),
            identity,
            self.source,
            len(images),
            (height, width),
            runner.seed or 0,
            (policy.weight_bits, policy.activation_bits),
            recipe_bits=recipe_bits(runner.student),
        )
        if self.path.exists():
            earlier = SensitivityTable.load(self.path)
            if earlier.identity == identity:
                # measured again with the scores that are asked for now
                earlier.rows = [
                    row for row in earlier.rows if row.bits not in self.widths or set(self.scores) <= set(row.scores)
                ]
                return earlier
            raise UsageError(f"{self.path} belongs to another analysis: delete it or choose another --work-dir")
        return table

    def measure(self, table: SensitivityTable, batches: Sequence[Tensor]) -> None:
        """Add the missing rows to the table, and save it."""
        runner, events = self.runner, HookEvents(self.runner)
        forwards = [FeaturesAndLogits(runner.teacher) for _ in batches]
        classes, networks = forwards[0].classes, map(self.network, self.widths)
        steps = measure(table, networks, self.calibrate, batches, forwards, classes, self.tensors, self.scores)
        try:
            for step, total in steps:
                if step == 1:  # calibration, a stage with a progress of its own, is done
                    events.begin(STAGE, total)
                self.save_now_and_then(table, always=step == total)
                events.step(STAGE, step)
                if step == total:
                    runner.call_hook("after_stage", stage=STAGE)
        finally:  # whatever stopped it
            self.save(table)

    def save(self, table: SensitivityTable) -> None:
        """Write ``sensitivity.json`` and ``sensitivity.csv``."""
        table.save(self.path)
        table.to_csv(self.path.with_suffix(".csv"))
        self.saved = time.monotonic()

    def save_now_and_then(self, table: SensitivityTable, always: bool = False) -> None:
        """Save the table if the last time was :data:`INTERVAL` ago, or always."""
        if always or time.monotonic() > self.saved + INTERVAL:
            self.save(table)

    def calibrate(self, network: nn.Module) -> None:
        """Calibrate a network as the runner's student."""
        self.runner.state.student = network
        self.runner.stages["calibrate"].run()

    def measure_times(self, table: SensitivityTable, engine: str, image: Tensor) -> None:
        """Add the missing times of layers in an engine to the table, and save it."""
        runner, events, network = self.runner, HookEvents(self.runner), self.network(BITS)
        function = deployment_function(runner.scope, runner.teacher)
        calls = calls_of(network, lambda model: function(model, image.to(runner.device)))
        timer = LayerTimes(network, calls, engine, table.latency.setdefault(engine, {}))
        if not timer:
            return
        events.begin(LATENCY, len(timer))
        try:
            for step in timer:
                self.save_now_and_then(table)
                events.step(LATENCY, step)
        finally:  # whatever stopped it
            self.save(table)
        runner.call_hook("after_stage", stage=LATENCY)

    def network(self, width: int) -> nn.Module:
        """The quantized model at a width, not calibrated; first and last layers have this width too."""
        runner = self.runner
        quantization = at_width(runner.quantization, width)
        artifact = artifact_model(ConfigDict(runner.cfg.model), quantization)
        keep_unreached(artifact, runner.teacher, runner.stages["generate"].image_size, policy_of(quantization)[0])
        return build_student(artifact, runner.teacher).to(runner.device)
