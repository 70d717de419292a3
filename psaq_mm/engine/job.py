"""A complete run: evaluate the float model, quantize, evaluate the quantized model, and record both."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from rich.console import Console
from rich.table import Table

from ..models import named
from ..utils.memory import peak_memory_mib, reset_peak_memory
from .arms import arm_of
from .results import Results, Row, results_table
from .runner import DFQRunner


def dataset_name(runner: DFQRunner) -> tuple[str, int]:
    """Class and folder of the test set, and its number of images; 0 if it does not exist."""
    described = (runner.cfg.get("test_dataloader") or {}).get("dataset", {})
    folder = Path(str(described.get("data_root") or "")).name
    # The loop is still a config if building it failed.
    loop = runner._test_loop
    images = len(loop.dataloader.dataset) if isinstance(loop, BaseLoop) else 0
    return f"{named(described.get('type', 'none'))} {folder}".strip(), images


class Job:
    """Runs a recipe, with evaluations before and after the quantization.

    Args:
        cfg: The recipe.
        console: Receives a line for each step.

    Attributes:
        results: The record.
        path: The path of ``results.json``.
    """

    def __init__(self, cfg: Config, console: Console) -> None:
        self.console = console
        self.say("building the model")
        self.runner = DFQRunner.from_cfg(cfg)
        self.path = Path(self.runner.work_dir) / "results.json"
        self.results = Results(config=str(cfg.filename), dataset="", images=0)

    def say(self, text: str) -> None:
        """Print a line, in the main process only."""
        if is_main_process():
            self.console.print(f"[bold]psaq_mm[/] {text}", highlight=False, soft_wrap=True)

    def run(self) -> Results:
        """Run all stages; ``results.json`` is written after each.

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
        self.evaluated(row)
        return self.results

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
