"""The runner of data-free quantization."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_rank, is_distributed, is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..distillation import MicroBatch
from ..errors import PSAQError, UsageError
from ..generation import SamplePool
from ..models import (
    artifact_model,
    backbone_of,
    calibration_function,
    policy_of,
    without_checkpointing,
)
from ..models.checkpoint import artifact_config, class_names, save_artifact
from ..models.hosts.types import buildable, registered
from ..quantization import (
    CoverageReport,
    check_calibrated,
    coverage,
    freeze,
    recording_sqnr,
)
from ..registry import LOOPS, RUNNERS
from ..utils.atomic_files import save_json, writable_folder
from ..utils.image_store import DiskImageStore
from ..utils.memory import keep_freed_memory
from ..utils.terminal import keep_terminal_quiet
from ..utils.termination import Termination
from .builder import build_student, keep_unreached, load_teacher, teacher_of, usage_errors
from .dataset_checks import build_test_loop, missing_path
from .preparation import runner_config
from .results import Figure, as_figure, timed
from .run_state import RunState, previous_path, recipe_hash

STAGES = {"generate": "GenerateLoop", "calibrate": "CalibrateLoop", "distill": "DistillLoop"}


@RUNNERS.register_module()
class DFQRunner(Runner):
    """Quantizes a trained model without data.

    ``train()`` generates images, calibrates the quantized student, runs the teacher-student cycle and writes the
    quantized checkpoint; it has this name so that the hosts' training tools can run it. ``val()`` and ``test()`` are
    mmengine's: they evaluate the float model before ``train()`` and the quantized model after it.

    The config is the host's with ``runner_type='psaq_mm.DFQRunner'``, ``load_from`` and ``dfq``. The keys of ``dfq``
    are ``quantization`` (a policy and its ``scope``), ``generate``, ``calibrate`` and ``distill`` (the loops of the
    stages), ``by_bits`` (their changes by width), ``pool_capacity`` (the most samples), ``arm`` (a name for results),
    ``progress`` (bars, the log in its file only), ``pictures`` (a folder) and ``report`` (False for none).

    Attributes:
        teacher: The float model.
        state: The data that the stages share and a resumed run loads: student, samples, progress.
        stages: The loops of the stages by name; empty before ``prepare()``.
        coverage: The quantized and the float tensors; empty before ``train()``.
        artifact: Config of the quantized model; empty before ``prepare()``.
        artifact_paths: Paths of the quantized model's config and checkpoint, which ``train()`` writes.
        missing_data: The path of a test set that ``evaluate()`` did not find; else empty.
        no_evaluation: The reason why ``evaluate()`` returned None; else empty.
    """

    teacher: nn.Module
    state: RunState
    _has_loaded: bool
    _test_loop: Any

    @classmethod
    def from_cfg(cls, cfg: Config) -> DFQRunner:
        """Build a runner from a recipe.

        Raises:
            UsageError: The recipe is not valid or the work dir not writable.
        """
        cfg = runner_config(cfg)
        writable_folder(Path(cfg.work_dir))
        with registered(cfg):
            return super().from_cfg(cfg)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.options = self.cfg.dfq
        self.quantization = dict(self.options.get("quantization", {}))
        with usage_errors():
            self.policy, self.scope = policy_of(self.quantization)
        self.teacher = self.bare_model()
        self.stages: dict[str, BaseLoop] = {}
        self.termination = Termination()
        self.checkpoint_meta: dict[str, Any] = {}
        self.shows_progress = bool(self.options.get("progress", False))
        self.coverage = CoverageReport(())
        self.artifact = ConfigDict()
        self.artifact_paths = self.folder / "quantized.py", self.folder / "quantized.pth"
        self.missing_data, self.no_evaluation = "", ""
        self.seconds: dict[str, float] = {}
        self.state = self.new_state()

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Set up the environment as mmengine does; use gloo without a GPU, where mmengine would require CUDA."""
        if self._launcher == "pytorch" and not torch.cuda.is_available() and not is_distributed():
            torch.distributed.init_process_group("gloo")
        super().setup_env(env_cfg)

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """Build the model as mmengine does, with one-line errors.

        Raises:
            UsageError: The type of a part is unknown, or its arguments are wrong.
            PSAQError: A part needs a package or a file that does not exist.
        """
        with buildable(self.cfg, "model"):
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Move the model to its device; no distributed wrapper, because the cycle averages gradients itself."""
        return model.to(get_device())

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """Build mmengine's logger; with ``progress``, only our own warnings and errors go to the terminal."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        if self.cfg.get("dfq", {}).get("progress", False):
            keep_terminal_quiet(logger)
        return logger

    def bare_model(self) -> nn.Module:
        """The model without a distributed wrapper."""
        return getattr(self.model, "module", self.model)

    @property
    def folder(self) -> Path:
        """The work dir."""
        return Path(self.work_dir)

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return next(self.teacher.parameters()).device

    @property
    def student(self) -> nn.Module:
        """The quantized model.

        Raises:
            PSAQError: ``prepare()`` has not been called.
        """
        return self.state.student

    @property
    def pool(self) -> SamplePool:
        """The samples."""
        return self.state.pool

    def load_or_resume(self) -> None:
        """Load the float checkpoint unless it is loaded already.

        Raises:
            PSAQError: The config names no checkpoint, or it cannot be loaded.
        """
        if self._has_loaded:
            return
        if self._load_from is None:
            raise PSAQError("no checkpoint to quantize: set load_from in the config or give --checkpoint")
        self.checkpoint_meta = load_teacher(self.teacher, str(self._load_from), self.cfg)
        self._has_loaded = True
        self.logger.info(f"loaded {self._load_from}")

    def prepare(self) -> None:
        """Load the checkpoint and build the student and all stages, unless they are built already.

        Invalid settings fail here, before a long evaluation or generation.
        """
        if self.stages:
            return
        keep_freed_memory()
        self.load_or_resume()
        self.teacher.eval()
        self.teacher.requires_grad_(False)
        if found := without_checkpointing(self.teacher):
            self.logger.info(f"activation checkpointing of {len(found)} modules is off while the model is quantized")
        self.artifact = artifact_model(ConfigDict(self.cfg.model), self.quantization)
        stages: dict[str, Any] = {key: self.build_stage(key, default) for key, default in STAGES.items()}
        self.policy = keep_unreached(self.artifact, self.teacher, stages["generate"].image_size, self.policy)
        # Build the student last, so that an unsupported backbone is not reported as a bad pattern of the policy.
        self.state.student = build_student(self.artifact, self.teacher).to(self.device)
        self.stages = stages

    def new_state(self) -> RunState:
        """The initial state of a run."""
        seed, rank = self.seed or 0, get_rank()
        images = DiskImageStore(self.folder / f"pool{rank or ''}")
        return RunState(
            self.folder,
            recipe_hash(self.cfg.model.to_dict(), self.options.to_dict(), self.seed),
            seed,
            teacher_of(self.teacher),
            torch.Generator().manual_seed(seed * 1000 + rank),
            images,
            SamplePool(self.options.get("pool_capacity", 1024), seed, images),
            seconds=self.seconds,
        )

    def train(self) -> nn.Module:
        """Quantize the model: run all stages, freeze the student and save it.

        Returns:
            The quantized model; also ``self.model``.

        Raises:
            PSAQError: The input or a setting is not valid, or the run fails.
            Terminated: SIGTERM was received; the run can be resumed from the last saved state.
        """
        self.call_hook("before_run")
        self.prepare()
        if self._resume:
            self.state.restore(self.logger)
        with self.termination.listening():
            for stage in STAGES:
                self.run_stage(stage)
        self.measure()
        freeze(self.student)
        self.save()
        previous_path(self.state.path).unlink(missing_ok=True)
        self.state.images.retain(set(self.pool.names))
        self.model = self.student
        self.call_hook("after_run")
        return self.student

    def run_stage(self, stage: str) -> None:
        """Run a stage and the hooks after it, unless the resumed state has this stage done."""
        if stage in self.state.done:
            return
        with timed(self.seconds, stage):
            self.stages[stage].run()
        self.state.done.append(stage)
        self.call_hook("after_stage", stage=stage)
        self.termination.check()

    def build_stage(self, key: str, default: str) -> BaseLoop:
        """Build the loop of a stage.

        Args:
            key: The stage's key in the recipe.
            default: The loop's type if the recipe names none.

        Raises:
            UsageError: The options of the stage are not valid.
        """
        with usage_errors():
            try:
                options = {"type": f"psaq_mm.{default}", **self.options.get(key, {})}
                return LOOPS.build(options, default_args={"runner": self})
            except (TypeError, KeyError) as error:
                raise UsageError(f"dfq.{key} is not valid: {error}") from None

    def measure(self) -> None:
        """Measure the SQNR of each quantizer on the first images of the pool, and record the coverage."""
        forward = calibration_function(self.scope, self.teacher)

        def record(size: int) -> None:
            with recording_sqnr(self.student), torch.no_grad():
                for batch in self.pool.first(32).split(size):
                    forward(self.student, batch.to(self.device))

        MicroBatch(self.logger.warning).run(8, record)
        prefix, part = backbone_of(self.student) if self.scope == "backbone" else ("", self.student)
        self.coverage = coverage(part, self.policy, prefix=prefix)

    def save(self) -> None:
        """Write ``quantized.py``, ``quantized.pth`` and ``coverage.json``."""
        if not is_main_process():
            return
        meta = {"psaq_mm": self.quantization_record(), **class_names(self.checkpoint_meta)}
        config = artifact_config(self.cfg, self.artifact.to_dict())
        save_artifact(self.folder, config, self.student, meta)
        if self.coverage.rows:
            save_json(json.loads(self.coverage.to_json()), self.folder / "coverage.json")

    def quantization_record(self) -> dict[str, Any]:
        """The policy, the scope and the hash of the samples, for the checkpoint's ``meta``."""
        return {**self.policy.to_config(), "scope": self.scope, "samples_sha256": self.pool.sha256()}

    def val(self) -> dict[str, Any]:
        """Run mmengine's validation.

        Raises:
            PSAQError: The model is quantized, but not calibrated.
        """
        self.check_calibrated()
        return super().val()

    def test(self) -> dict[str, Any]:
        """Run mmengine's test.

        Raises:
            PSAQError: The model is quantized, but not calibrated.
        """
        self.check_calibrated()
        return super().test()

    def check_calibrated(self) -> None:
        """Check that the model can be evaluated.

        Raises:
            PSAQError: The model is quantized, but not calibrated.
        """
        check_calibrated(self.bare_model())

    def evaluate(self, model: nn.Module) -> dict[str, Figure] | None:
        """Evaluate a model on the test set; the output of the evaluators goes to the log.

        Args:
            model: The float or the quantized model.

        Returns:
            The evaluator's metrics; None without a test set, with the reason in ``no_evaluation``.
        """
        if self._test_loop is None:
            self.no_evaluation = "the config names no test set (test_dataloader, test_evaluator, test_cfg)"
            self.logger.info(f"evaluation skipped: {self.no_evaluation}")
            return None
        printed = io.StringIO()
        self.model, current = model, self.model
        try:
            with contextlib.redirect_stdout(printed):
                with buildable(self.cfg, "test"):
                    self._test_loop = build_test_loop(self, self.teacher)
                with timed(self.seconds, "evaluate"):
                    return {key: as_figure(value) for key, value in self.test().items()}
        except FileNotFoundError as error:
            self.missing_data = missing_path(error)
            self.no_evaluation = f"{self.missing_data} is not there"
            self.logger.info(f"evaluation skipped: {self.no_evaluation}")
            return None
        finally:
            self.model = current
            self.logger.info(printed.getvalue())
