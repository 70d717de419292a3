"""The whole job: float figures, quantization, quantized figures, and the record of both."""

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
from .results import Results, Row, results_table
from .runner import DFQRunner


def dataset_name(runner: DFQRunner) -> tuple[str, int]:
    """What is evaluated on: the data set's class and folder, and the number of images; 0 where it isn't there."""
    described = (runner.cfg.get("test_dataloader") or {}).get("dataset", {})
    folder = Path(str(described.get("data_root") or "")).name
    # The loop is still a config where building it failed.
    loop = runner._test_loop
    images = len(loop.dataloader.dataset) if isinstance(loop, BaseLoop) else 0
    return f"{named(described.get('type', 'none'))} {folder}".strip(), images


class Job:
    """One recipe, from the float model's figures to the quantized one's.

    Args:
        cfg: The recipe.
        console: Where the newcomer reads what happens.
    """

    def __init__(self, cfg: Config, console: Console) -> None:
        self.console = console
        self.say("building the model")
        self.runner = DFQRunner.from_cfg(cfg)
        self.path = Path(self.runner.work_dir) / "results.json"
        self.results = Results(config=str(cfg.filename), dataset="", images=0)

    def say(self, text: str) -> None:
        """One line of what happens."""
        if is_main_process():
            self.console.print(f"[bold]psaq_mm[/] {text}", highlight=False)

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
        row = Row(runner.options.get("arm", "psaq"), runner.policy.weight_bits, runner.policy.activation_bits, fp.seed)
        self.results.rows.append(row)
        runner.register_hook(RecordHook(self, row), priority="VERY_LOW")
        runner.train()
        self.results.coverage = {"quantized": runner.coverage.quantized, "fp": runner.coverage.fp}
        self.say(f"evaluating the quantized model ({runner.artifact_paths[1]})")
        self.evaluated(row)
        return self.results

    def evaluated(self, row: Row) -> None:
        """Evaluate the runner's model into a row."""
        metrics = self.runner.evaluate(self.runner.bare_model())
        if metrics is None:
            self.say(f"evaluation skipped: {self.runner.no_evaluation}")
        row.metrics = metrics or {}
        self.results.dataset, self.results.images = dataset_name(self.runner)
        self.record(row)

    def record(self, row: Row) -> None:
        """Bring a row up to date and write the file."""
        row.seconds |= self.runner.seconds
        row.peak_memory_mib = peak_memory_mib()
        if is_main_process():
            self.results.save(self.path)

    def closing_table(self) -> Table:
        """The main figures of float and quantized model side by side."""
        return results_table(self.results)


class RecordHook(Hook):
    """Writes ``results.json`` at the end of every stage.

    Args:
        job: Whose record.
        row: The row that the stages belong to.
    """

    def __init__(self, job: Job, row: Row) -> None:
        self.job, self.row = job, row

    def after_stage(self, runner: DFQRunner, stage: str) -> None:
        """Write what is known of the row."""
        self.row.samples_sha256 = runner.pool.sha256()
        self.job.record(self.row)
