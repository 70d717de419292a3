"""The runs of the paper's table: a process for each row, one after another; finished ones are not repeated."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console

from ...errors import PSAQError, UsageError
from ...utils.atomic_files import save_with, writable_folder
from ...utils.config_lookup import packaged
from ...utils.termination import Terminated
from ..recipe import parse_bits
from .inputs import Inputs
from .pace import PACE_FILE, Pace, device_name, known_pace, measured_pace
from .plan import Model, all_models
from .table import read_runs, write_table

Key = tuple[Model, str, int]
Launch = Callable[[list[str]], int]
GOES_ON = "stopped: the same command goes on in this row"


def launch(command: list[str]) -> int:
    """Run a command to its end.

    Returns:
        Its exit status.

    Raises:
        Terminated: SIGTERM, which is passed on to the command, or an interrupt was received.
    """
    with subprocess.Popen(command) as child:

        def stop(*_: object) -> None:
            child.terminate()  # leaving the block waits for it
            raise Terminated(GOES_ON)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            return child.wait()
        except KeyboardInterrupt:  # the terminal has sent it to both
            raise Terminated(GOES_ON) from None
        finally:
            signal.signal(signal.SIGTERM, before)


class PaperTable:
    """Runs the rows of a table and writes it after each.

    A row is ``tools/ablate.py`` with one bit width and seed, in a folder for its model; the rows of a model share the
    figures of the float model and, for each seed, the first images. An interrupted row goes on where it stopped.

    Args:
        models: The models.
        inputs: Their recipes and data (:func:`.inputs.check_inputs`).
        seeds: The seeds.
        gpus: Number of GPUs; 0 for the CPU.
        folder: Folder for everything.
        console: Receives the progress.
        launch: Runs a command and returns its exit status; None for :func:`launch`.

    Raises:
        UsageError: There are fewer GPUs, there is no seed, or nothing can run.
    """

    def __init__(
        self,
        models: Sequence[Model],
        inputs: Inputs,
        seeds: Sequence[int],
        gpus: int,
        folder: Path,
        console: Console,
        launch: Launch | None = None,
    ) -> None:
        available = torch.cuda.device_count()
        if gpus > available:
            raise UsageError(
                f"this machine has {available} GPUs, not {gpus}: give --gpus at most that, or 0 for the CPU"
            )
        if not seeds:
            raise UsageError("no seed was given: give at least one")
        self.models = [model for model in models if model.name in inputs.configs]
        if not self.models:
            raise UsageError("no row can run: give the folder of a data set (--coco, --ade20k, --imagenet)")
        self.inputs, self.seeds, self.gpus = inputs, seeds, gpus
        # Absolute, because the records name their config.
        self.folder, self.console = writable_folder(folder.absolute()), console
        self.launch = launch
        for model in self.models:
            self.write_config(model)

    def path(self, model: Model) -> Path:
        """The folder of a model's runs."""
        return self.folder / model.name

    def write_config(self, model: Model) -> None:
        """Write the recipe of a model for its processes.

        Raises:
            UsageError: Rows have run with other settings.
        """
        cfg: Config = self.inputs.configs[model.name]
        cfg.resume = True
        cfg.pop("work_dir", None)  # which the command gives
        folder = writable_folder(self.path(model))
        path = folder / "config.py"
        text = cfg.pretty_text  # formatted at each access
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        if (folder / "rows").exists() or (folder / "ablation.json").exists():
            raise UsageError(
                f"the rows in {folder} ran with other settings, data or checkpoints: give these again, or another "
                "--work-dir"
            )
        (folder / PACE_FILE).unlink(missing_ok=True)
        save_with(lambda scratch: scratch.write_text(text, encoding="utf-8"), path)

    def missing(self, model: Model) -> list[Key]:
        """The rows of a model that have not run."""
        runs = read_runs(self.path(model) / "ablation.json")
        have = {(r.weight_bits, r.activation_bits, r.seed) for r in runs.rows if r.arm == "psaq"} if runs else set()
        rows = [(model, bits, seed) for seed in self.seeds for bits in model.bits]
        return [(model, bits, seed) for model, bits, seed in rows if (*parse_bits(bits), seed) not in have]

    def estimate(self) -> dict[str, float]:
        """The estimated seconds of the missing rows by model, from a pilot of each.

        Raises:
            PSAQError: The data or checkpoints of models do not fit; all of them are printed.
        """
        paces: dict[str, Pace] = {}
        wrong = []
        for model in self.models:
            if not self.missing(model):
                continue
            known = known_pace(self.path(model))
            if known is not None:
                paces[model.name] = known
                continue
            self.console.print(f"[bold]psaq_mm[/] timing {model.title} on a few images", highlight=False)
            try:
                paces[model.name] = measured_pace(self.inputs.configs[model.name], model.bits[0], self.path(model))
            except PSAQError as error:
                wrong.append(model.title)
                self.console.print(f"  {error}", highlight=False, markup=False, soft_wrap=True)
        if wrong:
            raise PSAQError(f"{', '.join(wrong)} cannot run, see above: correct it, or choose other rows with --rows")
        return {model.name: self.seconds(model, paces[model.name]) for model in self.models if model.name in paces}

    def seconds(self, model: Model, pace: Pace) -> float:
        """The estimated seconds of a model's missing rows."""
        missing, folder = self.missing(model), self.path(model)
        fresh = {seed for _, _, seed in missing if not (folder / f"samples_seed{seed}.pth").is_file()}
        images = self.inputs.images[model.dataset.name]
        needs_fp = read_runs(folder / "ablation.json") is None
        one = pace.seconds(self.inputs.configs[model.name], images, len(missing), len(fresh), needs_fp)
        return one / max(1, self.gpus)

    def announce(self, seconds: dict[str, float]) -> None:
        """Print the estimate of each model and of all."""
        for model in self.models:
            rows = len(self.missing(model))
            took = f"{rows} rows, about {duration(seconds[model.name])}" if rows else "finished"
            self.console.print(f"  {model.title}: {took}", highlight=False)
        where = f"{self.gpus} x {device_name()}" if self.gpus else "the CPU"
        self.console.print(
            f"[bold]psaq_mm[/] about {duration(sum(seconds.values()))} on {where}: an estimate from a few images and "
            "steps of each model",
            highlight=False,
            soft_wrap=True,
        )
        if not self.gpus:
            self.console.print("[bold]psaq_mm[/] a GPU is many times as fast")

    def run(self, seconds: dict[str, float]) -> Path:
        """Run the missing rows; a row that fails does not stop the others.

        Args:
            seconds: The estimates by model.

        Returns:
            The path of the Markdown table.

        Raises:
            PSAQError: Rows have failed.
            Terminated: The run was stopped.
        """
        rows = [key for model in self.models for key in self.missing(model)]
        took = {model.name: seconds[model.name] / len(self.missing(model)) for model, _, _ in rows}
        failed, table = [], self.write()
        for number, (model, bits, seed) in enumerate(rows, 1):
            left = duration(sum(took[one.name] for one, _, _ in rows[number - 1 :]))
            self.console.print(
                f"[bold]row {number}/{len(rows)}[/] {model.title} {bits.upper()} seed {seed}, about {left} left",
                highlight=False,
            )
            command = self.command(model, bits, seed)
            self.console.print(shlex.join(command), highlight=False, markup=False, soft_wrap=True)
            status = (self.launch or launch)(command)
            table = self.write()
            if status or (model, bits, seed) in self.missing(model):
                failed.append(f"{model.recipe(bits)} seed {seed}")
        if failed:
            raise PSAQError(
                f"{len(failed)} of {len(rows)} rows failed ({', '.join(failed)}): see their messages above, then run "
                "the same command again"
            )
        return table

    def write(self) -> Path:
        """Write the table of all runs in the folder, also those of earlier calls with other rows or data sets."""
        return write_table(all_models(), self.folder)

    def command(self, model: Model, bits: str, seed: int) -> list[str]:
        """The command of a row; several GPUs get a process each."""
        folder, several = self.path(model), self.gpus > 1
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.gpus}"] if several else []
        own = [str(packaged("tools/ablate.py").absolute()), str(folder / "config.py"), "--work-dir", str(folder)]
        own += ["--arms", "psaq", "--bits", bits, "--seeds", str(seed)]
        return [sys.executable, *launcher, *own, *(["--launcher", "pytorch"] if several else [])]


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
