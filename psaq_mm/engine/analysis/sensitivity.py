"""The sensitivity of a model's tensors on generated images, as a run that can be interrupted."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from ...analysis.operations import operations
from ...analysis.probe import Probe, probed_tensors
from ...analysis.sensitivity import Reference, Sensitivity, sensitivities
from ...errors import PSAQError, UsageError
from ...models import artifact_model, policy_of
from ...models.features import FeaturesAndLogits
from ...quantization.spec import MAX_BITS, MIN_BITS
from ...utils.atomic_files import save_json, writable_folder
from ..arms import real_dataset
from ..builder import build_student, keep_unreached
from ..recipe import recipe_of
from ..run_state import recipe_hash
from ..runner import DFQRunner

SCHEMA = 1
STAGE = "analyze"
SOURCES = ("generated", "real")
TENSORS = ("all", "weights", "activations")
# Seconds between two saved states.
INTERVAL = 10.0


@dataclass
class SensitivityTable:
    """The record of an analysis.

    Attributes:
        config: Path of the config.
        identity: Hash of what the rows depend on; rows of another analysis are not mixed with them.
        source: ``'generated'`` or ``'real'`` images.
        count: Number of images.
        size: Their height and width.
        seed: Seed of the run.
        bits: The recipe's bits of weights and activations, whose settings all widths have.
        recipe_bits: Bits of each layer's tensors in the recipe.
        operations: Multiplications of each layer on one image, in the order of execution.
        rows: One row for each tensor and width.
    """

    config: str
    identity: str
    source: str
    count: int
    size: tuple[int, int]
    seed: int
    bits: tuple[int, int]
    recipe_bits: dict[str, dict[str, int]] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    rows: list[Sensitivity] = field(default_factory=list)

    def score(self, asked: str | None) -> str:
        """Which sensitivity is used: the one asked for, else that of the logits where there are any."""
        return asked or ("features" if self.rows[0].logits is None else "logits")

    def save(self, path: Path) -> None:
        """Write the JSON of schema 1 atomically, rows in the order of execution."""
        places = {name: place for place, name in enumerate(self.operations)}
        self.rows.sort(
            key=lambda row: (places.get(row.layer, len(places)), row.tensor != "weight", row.tensor, -row.bits)
        )
        save_json({"schema": SCHEMA, **asdict(self)}, path)

    @classmethod
    def load(cls, path: Path) -> SensitivityTable:
        """Read a file that :meth:`save` wrote.

        Raises:
            PSAQError: It cannot be read.
        """
        try:
            data = json.loads(path.read_text())
            if data.pop("schema") != SCHEMA:
                raise KeyError
            rows = [Sensitivity(**row) for row in data.pop("rows")]
            return cls(**{**data, "size": tuple(data["size"]), "bits": tuple(data["bits"])}, rows=rows)
        except (OSError, json.JSONDecodeError, KeyError, TypeError):
            raise PSAQError(f"{path} cannot be read: delete it and start the analysis anew") from None


class SensitivityRun:
    """Generates images, calibrates the model at each width, and quantizes one tensor after the other.

    The file is written every ten seconds; a run that is called again goes on with the missing rows.

    Args:
        cfg: The recipe. Its bits select the settings (``by_bits``) which all widths share.
        widths: Bit widths, 2 to 8 each.
        folder: Folder of ``sensitivity.json``; the images and the log are written to its subfolder ``analysis``.
        images: Number of images on which the outputs are compared.
        batch_size: Images per forward pass.
        source: ``'generated'``, or ``'real'`` for images of the recipe's ``real_images`` or training set, as a
            comparison.
        tensors: ``'all'``, ``'weights'`` or ``'activations'``.

    Raises:
        UsageError: A width, a number or the source is not valid, or the recipe has no real images.
    """

    def __init__(
        self,
        cfg: Config,
        widths: Sequence[int],
        folder: Path,
        images: int = 16,
        batch_size: int = 8,
        source: str = "generated",
        tensors: str = "all",
    ) -> None:
        if not widths or any(width not in range(MIN_BITS, MAX_BITS + 1) for width in widths):
            raise UsageError(f"widths {list(widths)} are not valid: give bits from {MIN_BITS} to {MAX_BITS}")
        if images < 1 or batch_size < 1:
            raise UsageError("images and batch size of an analysis must be at least 1")
        if source not in SOURCES:
            raise UsageError(f"source {source!r} is unknown: use one of {', '.join(SOURCES)}")
        if tensors not in TENSORS:
            raise UsageError(f"tensors {tensors!r} are unknown: use one of {', '.join(TENSORS)}")
        self.tensors = tensors
        self.widths, self.images, self.batch_size, self.source = sorted(set(widths))[::-1], images, batch_size, source
        self.folder = writable_folder(folder)
        self.path = folder / "sensitivity.json"
        self.runner = DFQRunner.from_cfg(self.configured(cfg))
        self.recipe_bits: dict[str, dict[str, int]] = {}
        self.saved = time.monotonic()

    def configured(self, cfg: Config) -> Config:
        """The recipe with the images of the analysis.

        Raises:
            UsageError: The recipe has no real images.
        """
        cfg = copy.deepcopy(cfg)
        cfg.dfq = recipe_of(cfg)
        cfg.work_dir = str(self.folder / "analysis")
        cfg.update(dict.fromkeys(("test_dataloader", "test_evaluator", "test_cfg")))
        first = cfg.dfq.generate
        first.images = max(first.images, self.images)
        if self.source == "generated":
            seed = (cfg.get("randomness") or {}).get("seed") or 0
            first.samples = str(writable_folder(Path(cfg.work_dir)) / f"images_seed{seed}.pth")
            return cfg
        dataset = real_dataset(cfg)
        if dataset is None:
            raise UsageError("source 'real' needs real_images in the config: a data set that is no test set")
        size = first.image_size
        cfg.dfq.generate = {
            "_delete_": True,
            "type": "psaq_mm.RealImagesLoop",
            "images": first.images,
            "image_size": size,
            "dataset": dataset,
        }
        return cfg

    def run(self) -> SensitivityTable:
        """Measure the missing rows.

        Returns:
            All rows.

        Raises:
            PSAQError: The checkpoint or a file cannot be read.
            Terminated: SIGTERM was received; the rows so far are saved.
        """
        runner = self.runner
        runner.prepare()
        for one in probed_tensors(runner.student):
            self.recipe_bits.setdefault(one.layer, {})[one.tensor] = one.bits
        with runner.termination.listening():
            runner.run_stage("generate")
            images = runner.pool.first(self.images)
            table = self.table(images)
            batches = images.split(self.batch_size)
            forwards = [FeaturesAndLogits(runner.teacher) for _ in batches]
            for width in self.widths:
                self.measure(table, width, batches, forwards)
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
            self.recipe_bits,
        )
        if self.path.exists():
            earlier = SensitivityTable.load(self.path)
            if earlier.identity == identity:
                return earlier
            raise UsageError(f"{self.path} belongs to another analysis: delete it or choose another --work-dir")
        return table

    def measure(
        self,
        table: SensitivityTable,
        width: int,
        batches: Sequence[Tensor],
        forwards: Sequence[FeaturesAndLogits],
    ) -> None:
        """Add the missing rows of a width to the table, and save it."""
        runner = self.runner
        network = self.network(width)
        have = {(*row.key, row.bits) for row in table.rows}
        wanted = [one for one in probed_tensors(network) if self.tensors in ("all", kind_of(one.tensor))]
        missing = [one for one in wanted if (*one.key, one.bits) not in have]
        if not missing:
            return
        runner.state.student = network
        probe = Probe(network, runner.stages["calibrate"].run)
        reference = Reference(network, batches, forwards, forwards[0].classes)
        if not table.operations:
            table.operations = operations(network, lambda model: forwards[0](model, batches[0][:1].to(runner.device)))
        runner.call_hook("before_stage", stage=STAGE, total=len(missing))
        for step, row in enumerate(sensitivities(probe, reference, missing), 1):
            table.rows.append(row)
            if step == len(missing) or time.monotonic() > self.saved + INTERVAL or runner.termination.requested:
                table.save(self.path)
                self.saved = time.monotonic()
            runner.call_hook("after_stage_step", stage=STAGE, step=step)
            runner.termination.check()
        runner.call_hook("after_stage", stage=STAGE)

    def network(self, width: int) -> nn.Module:
        """The quantized model at a width, not calibrated; first and last layers have this width too."""
        runner = self.runner
        quantization = {**runner.quantization, "weight_bits": width, "activation_bits": width}
        for key in ("first_layer", "last_layers"):
            if isinstance(quantization.get(key), int):
                quantization[key] = None
        artifact = artifact_model(ConfigDict(runner.cfg.model), quantization)
        keep_unreached(artifact, runner.teacher, runner.stages["generate"].image_size, policy_of(quantization)[0])
        return build_student(artifact, runner.teacher).to(runner.device)


def kind_of(tensor: str) -> str:
    """``'weights'`` or ``'activations'``."""
    return "weights" if tensor == "weight" else "activations"
