"""A complete run: evaluate the float model, quantize, evaluate the quantized model, record both and report."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from rich.console import Console
from rich.table import Table

from ..models import calibration_function, named
from ..models.checkpoint import class_names
from ..report import Run, command_line, conditions, picture_files, report_of, write_report
from ..utils.memory import peak_memory_mib, reset_peak_memory
from .analysis.closeness import closeness
from .analysis.mixed import mixed_recipe, save_recipe
from .analysis.verdict import RECIPE, Verdict, verdict
from .arms import arm_of
from .results import Results, Row, results_table
from .runner import DFQRunner

# The newest samples, of which the report shows some and on all of which it counts values.
REPORTED = 16


def dataset_name(runner: DFQRunner) -> tuple[str, int]:
    """Class and folder of the test set, and its number of images; 0 if it does not exist."""
    described = (runner.cfg.get("test_dataloader") or {}).get("dataset", {})
    folder = Path(str(described.get("data_root") or "")).name
    # The loop is still a config if building it failed.
    loop = runner._test_loop
    images = len(loop.dataloader.dataset) if isinstance(loop, BaseLoop) else 0
    return f"{named(described.get('type', 'none'))} {folder}".strip(), images


def dataset_meta(runner: DFQRunner) -> dict[str, Any]:
    """``classes`` and ``palette`` of the test set or, without one, of the checkpoint, as far as they are known."""
    loop = runner._test_loop
    found = dict(getattr(loop.dataloader.dataset, "metainfo", None) or {}) if isinstance(loop, BaseLoop) else {}
    saved = class_names(runner.checkpoint_meta)
    saved = {"classes": saved.get("CLASSES"), "palette": saved.get("PALETTE"), **(saved.get("dataset_meta") or {})}
    return {key: found.get(key) or saved.get(key) for key in ("classes", "palette")}


class Job:
    """Runs a recipe, with evaluations before and after the quantization.

    Args:
        cfg: The recipe.
        console: Receives a line for each step.
        command: What is run, for the report; default: the command line of this process.

    Attributes:
        results: The record.
        path: The path of ``results.json``.
        report_path: The path of ``report.html``; None while there is none.
        verdict: What the run shows without labels; None before, and without a report.

    Raises:
        UsageError: The recipe is not valid, the work dir not writable, or the folder of pictures without images.
    """

    def __init__(self, cfg: Config, console: Console, command: str | None = None) -> None:
        self.console, self.command = console, command
        self.report_path: Path | None = None
        self.verdict: Verdict | None = None
        if pictures := (cfg.get("dfq") or {}).get("pictures"):
            picture_files(pictures)
        self.recipe = copy.deepcopy(cfg)
        self.say("building the model")
        self.runner = DFQRunner.from_cfg(cfg)
        self.path = Path(self.runner.work_dir) / "results.json"
        self.results = Results(config=str(cfg.filename), dataset="", images=0)

    def say(self, text: str) -> None:
        """Print a line, in the main process only."""
        if is_main_process():
            self.console.print(f"[bold]psaq_mm[/] {text}", highlight=False, soft_wrap=True)

    def run(self) -> Results:
        """Run all stages; ``results.json`` is written after each. At the end the run is judged and ``report.html``
        written, unless the recipe has ``report=False``.

        Returns:
            The record.
        """
        reset_peak_memory()
        runner = self.runner
        runner.prepare()
        self.say(f"evaluating the float model ({runner.model_name}, {runner.cfg.load_from})")
        fp = Row("fp32", 32, 32, runner.seed or 0)
        self.results.rows.append(fp)
        self.evaluated(fp)
        bits = f"W{runner.policy.weight_bits}A{runner.policy.activation_bits}"
        self.say(f"quantizing to {bits}, scheme {runner.policy.scheme}, scope {runner.scope}, without data")
        runner.seconds.pop("evaluate", None)
        row = Row(arm_of(runner.options), runner.policy.weight_bits, runner.policy.activation_bits, fp.seed)
        self.results.rows.append(row)
        runner.register_hook(RecordHook(self, row), priority="VERY_LOW")
        runner.train()
        self.results.coverage = {"quantized": runner.coverage.quantized, "fp": runner.coverage.fp}
        self.say(f"evaluating the quantized model ({runner.artifact_paths[1]})")
        row.closeness = closeness(runner)
        self.evaluated(row)
        if runner.options.get("report", True):
            self.verdict = verdict(runner, row.closeness)
            self.results.verdict = self.verdict.to_dict()
            self.report()
        return self.results

    def report(self) -> None:
        """Write ``report.html`` in the main process. Failures are warnings: everything else has been written."""
        if not is_main_process():
            return
        try:
            self.results.save(self.path)
            self.save_more_bits(self.runner.folder / RECIPE)
            self.report_path = write_report(report_of(self.contents()), self.runner.folder)
        except Exception as error:  # such as a full disk, or a model that cannot be run in this way
            reason = " ".join(str(error).split())
            self.runner.logger.warning(f"no report was written ({type(error).__name__}: {reason})")

    def save_more_bits(self, path: Path) -> None:
        """Write the recipe with more bits for the layers with the largest errors; remove it where it does not help."""
        if self.verdict is not None and self.verdict.helps:
            save_recipe(mixed_recipe(self.recipe, list(self.verdict.overrides)), path)
        else:
            path.unlink(missing_ok=True)

    def other_bits(self) -> str:
        """How many weights have other bits than the recipe's, as text; empty if none has."""
        usual = self.runner.policy.weight_bits
        bits = [row.bits for row in self.runner.coverage.rows if row.kind == "weight" and row.bits is not None]
        other = sum(one != usual for one in bits)
        return f" ({other} of {len(bits)} weights have other bits)" if other else ""

    def contents(self) -> Run:
        """What the report is made of."""
        runner, results = self.runner, self.results
        quantized = results.rows[-1]
        named_config = runner.cfg.filename is not None
        facts = {
            **({"config": results.config} if named_config else {}),
            "model": runner.model_name,
            "checkpoint": str(runner.cfg.load_from),
            "bits": f"W{quantized.weight_bits}A{quantized.activation_bits}{self.other_bits()}",
            "scheme and scope": f"{runner.policy.scheme}, {runner.scope}",
            "test set": f"{results.dataset}, {results.images} images" if results.images else "none",
            "generated images": str(len(runner.pool)),
            "seed": str(quantized.seed),
            **conditions(runner.device),
        }
        if get_world_size() > 1:
            facts["processes"] = str(get_world_size())
        return Run(
            title=Path(results.config).stem if named_config else runner.model_name,
            teacher=runner.teacher,
            student=runner.student,
            images=runner.pool.latest(REPORTED),
            coverage=runner.coverage,
            forward=calibration_function(runner.scope, runner.teacher),
            facts=facts,
            command=command_line() if self.command is None else self.command,
            rows=json.loads(self.path.read_text())["rows"],
            verdict=self.verdict.sentences() if self.verdict else (),
            no_figures=runner.no_evaluation,
            cfg=runner.cfg,
            meta=dataset_meta(runner),
            pictures=runner.options.get("pictures") or "",
            recipe=Config({"dfq": runner.options.to_dict()}).pretty_text,
            warn=runner.logger.warning,
        )

    def evaluated(self, row: Row) -> None:
        """Evaluate the runner's model and add the metrics to a row."""
        metrics = self.runner.evaluate(self.runner.bare_model())
        if metrics is None:
            self.say(f"evaluation skipped: {self.runner.no_evaluation}")
        row.metrics = metrics or {}
        self.results.dataset, self.results.images = dataset_name(self.runner)
        self.record(row)

    def record(self, row: Row) -> None:
        """Update times and memory of a row and write the file."""
        row.seconds |= self.runner.seconds
        row.peak_memory_mib = peak_memory_mib()
        if is_main_process():
            self.results.save(self.path)

    def closing_table(self) -> Table:
        """The main metrics of the float and the quantized model."""
        return results_table(self.results)


class RecordHook(Hook):
    """Writes ``results.json`` at the end of every stage.

    Args:
        job: The job whose record is written.
        row: The row of the quantized model.
    """

    def __init__(self, job: Job, row: Row) -> None:
        self.job, self.row = job, row

    def after_stage(self, runner: DFQRunner, stage: str) -> None:
        """Add the hash of the samples to the row and write the file."""
        self.row.samples_sha256 = runner.pool.sha256()
        self.job.record(self.row)
