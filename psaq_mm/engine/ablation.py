"""Ablations: arms, bit widths and seeds in one run, one row of a table each."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.console import Console

from ..errors import PSAQError, UsageError
from ..utils.atomic_files import save_with, writable_folder
from ..utils.memory import peak_memory_mib, reset_peak_memory
from .analysis.closeness import closeness
from .arms import ARMS, configure
from .job import dataset_name
from .recipe import parse_bits
from .results import SCHEMA, STAGES, Results, Row, main_metrics
from .runner import DFQRunner

Key = tuple[str, int, int, int]


class Ablation:
    """A table with a row for each arm, bit width and seed; it is saved after each row and resumes at the next one.

    In several processes all of them work on each row, and the main process writes the files.

    Args:
        cfg: The recipe that all rows share.
        bits: Bit widths such as ``w4a8``.
        arms: Names of arms (:data:`.arms.ARMS`); the row of ``fp32`` is always included.
        seeds: Seeds.
        once: Arms that run with the first seed only.
        folder: Folder of ``ablation.json``, ``.csv``, ``.md`` and the shared samples.
        console: Receives the progress.

    Raises:
        UsageError: An arm is unknown, no seed is given, or the folder belongs to another config.
        PSAQError: An existing ``ablation.json`` cannot be read.
    """

    def __init__(
        self,
        cfg: Config,
        bits: Iterable[str],
        arms: Iterable[str],
        seeds: Iterable[int],
        once: Iterable[str],
        folder: Path,
        console: Console,
    ) -> None:
        self.cfg, self.folder, self.console = cfg, writable_folder(folder), console
        widths, seeds = [parse_bits(text) for text in bits], list(seeds)
        arms, once = [arm for arm in arms if arm != "fp32"], set(once)
        unknown = [arm for arm in [*arms, *once] if arm not in ARMS]
        if unknown:
            raise UsageError(f"arm {unknown[0]!r} is unknown: choose from fp32, {', '.join(ARMS)}")
        if not seeds:
            raise UsageError("no seed was given: give at least one")
        # Seeds in the outermost loop, so that an interrupted table is complete for its first seeds.
        self.keys: list[Key] = [
            (arm, w, a, seed)
            for seed, (w, a), arm in product(seeds, widths, arms)
            if seed == seeds[0] or arm not in once
        ]
        self.path = folder / "ablation.json"
        self.results = Results(config=str(cfg.filename), dataset="", images=0)
        if self.path.exists():
            self.results = self._load()

    def _load(self) -> Results:
        try:
            data = json.loads(self.path.read_text())
            if data["schema"] != SCHEMA or data["config"] != self.results.config:
                raise UsageError(f"{self.path} belongs to {data['config']}: choose another --work-dir")
            return Results.from_dict(data)
        except (json.JSONDecodeError, KeyError, TypeError):
            raise PSAQError(f"{self.path} cannot be read: move it away to start anew") from None

    def run(self) -> Results:
        """Run the missing rows.

        Returns:
            All rows.
        """
        have = {self.key(row) for row in self.results.rows}
        missing = [key for key in self.keys if key not in have]
        if not any(row.arm == "fp32" for row in self.results.rows):
            self.add(self.float_row())
        for number, key in enumerate(missing, 1):
            self.say(f"[bold]row {number}/{len(missing)}[/] {key[0]} W{key[1]}A{key[2]} seed {key[3]}")
            self.add(self.row(*key))
        return self.results

    @staticmethod
    def key(row: Row) -> Key:
        """The key of a row: arm, weight bits, activation bits and seed."""
        return row.arm, row.weight_bits, row.activation_bits, row.seed

    def float_row(self) -> Row:
        """Evaluate the float model."""
        runner = self.runner(self.cfg.copy(), "fp32")
        runner.load_or_resume()
        return self.measured(Row("fp32", 32, 32, runner.seed or 0), runner)

    def row(self, arm: str, weight_bits: int, activation_bits: int, seed: int) -> Row:
        """Quantize and evaluate with one arm."""
        name = f"{arm}_w{weight_bits}a{activation_bits}_seed{seed}"
        samples = self.folder / f"samples_seed{seed}.pth"
        cfg = configure(self.cfg, arm, (weight_bits, activation_bits), seed, samples)
        runner = self.runner(cfg, name)
        runner.train()
        self.results.coverage = {"quantized": runner.coverage.quantized, "fp": runner.coverage.fp}
        row = Row(arm, weight_bits, activation_bits, seed, samples_sha256=runner.pool.sha256())
        row = self.measured(row, runner)
        row.closeness = closeness(runner)
        # Only an interrupted row needs its files, in order to resume. The evaluation, which ends with a collective, is
        # behind all processes: none of them writes there any more.
        if is_main_process():
            shutil.rmtree(runner.work_dir, ignore_errors=True)
        return row

    def runner(self, cfg: Config, name: str) -> DFQRunner:
        """Build a runner with a unique name, because mmengine keeps loggers and visualizers by name."""
        cfg.work_dir, cfg.experiment_name = str(self.folder / "rows" / name), name
        if "visualizer" in cfg:
            cfg.visualizer = {**cfg.visualizer, "name": name}
        reset_peak_memory()
        return DFQRunner.from_cfg(cfg)

    def measured(self, row: Row, runner: DFQRunner) -> Row:
        """Evaluate the runner's model and add metrics, times and memory to a row.

        Raises:
            PSAQError: There is no test set.
        """
        metrics = runner.evaluate(runner.bare_model())
        if metrics is None:
            raise PSAQError(f"an ablation needs the test set ({runner.no_evaluation}): correct it in the config")
        row.metrics = metrics
        row.seconds |= runner.seconds
        row.peak_memory_mib = peak_memory_mib()
        self.results.dataset, self.results.images = dataset_name(runner)
        self.say("  " + "  ".join(f"{key} {row.metrics[key]:.3f}" for key in main_metrics([row])))
        return row

    def say(self, text: str) -> None:
        """Print a line, in the main process only."""
        if is_main_process():
            self.console.print(text)

    def add(self, row: Row) -> None:
        """Append a row and write all files."""
        self.results.rows.append(row)
        if not is_main_process():
            return
        self.results.save(self.path)
        save_with(lambda path: write_csv(self.results, path), self.folder / "ablation.csv")
        save_with(lambda path: path.write_text(markdown(self.results)), self.folder / "ablation.md")


def write_csv(results: Results, path: Path) -> None:
    """Write the rows as CSV, with a column for each metric and each stage's seconds."""
    metrics = list(dict.fromkeys(key for row in results.rows for key in row.scalars))
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        seconds = [f"seconds_{stage}" for stage in STAGES]
        writer.writerow(
            ["arm", "weight_bits", "activation_bits", "seed", *metrics, *seconds, "peak_memory_mib", "samples_sha256"]
        )
        for row in results.rows:
            figures = [row.scalars.get(key, "") for key in metrics]
            took = [round(row.seconds.get(stage, 0.0), 2) for stage in STAGES]
            head = [row.arm, row.weight_bits, row.activation_bits, row.seed]
            writer.writerow([*head, *figures, *took, row.peak_memory_mib, row.samples_sha256])


def markdown(results: Results) -> str:
    """All rows with their main metrics, as a Markdown table."""
    metrics = main_metrics(results.rows)
    lines = [f"| arm | bits | seed | {' | '.join(metrics)} | seconds |", "|---" * (len(metrics) + 4) + "|"]
    for row in results.rows:
        bits = "FP32" if row.arm == "fp32" else f"W{row.weight_bits}A{row.activation_bits}"
        figures = " | ".join(f"{row.metrics[key]:.4f}" if key in row.metrics else "" for key in metrics)
        lines.append(f"| {row.arm} | {bits} | {row.seed} | {figures} | {sum(row.seconds.values()):.0f} |")
    return "\n".join(lines) + "\n"
