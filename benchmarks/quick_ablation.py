"""All networks with trained weights, calibrated at 8 and 4 bits, within half an hour on two cores.

    python -m benchmarks.quick_ablation --work-dir DIR

A check of a change to images, calibration or recipes before whole tables are measured: fewer steps, fewer evaluation
images and one seed, so that the figures are no results. Networks whose data are missing are left out with a line that
says which environment variable names them. Called again with the same folder, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from psaq_mm.cli import run_tool
from psaq_mm.engine.results import Results, main_metrics
from psaq_mm.errors import PSAQError

ROOT = Path(__file__).parents[1]
ARMS, BITS = ["fractal-calib", "psaq-calib"], ["w8a8", "w4a8", "w4a4"]


@dataclass(frozen=True)
class Instrument:
    """A network to measure on.

    Attributes:
        config: Its recipe, from the root of the checkout.
        needs: Environment variables that name its data and weights.
        options: Changes of the recipe that make it quick.
        bits: The widths.
    """

    config: str
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    bits: tuple[str, ...] = tuple(BITS)

    @property
    def name(self) -> str:
        """The name of the instrument's folder."""
        return self.config.removesuffix(".py").replace("/", "-")


INSTRUMENTS = (
    Instrument("configs/demo/upernet_deit_nano_w8a8.py", options=("test_dataloader.dataset.images=60",)),
    *(
        Instrument(
            f"configs/nuclei/{name}_deit_tiny_w8a8.py",
            needs=("NUCLEI_ROOT",),
            options=("test_dataloader.dataset.indices=60", "dfq.generate.images=16"),
            bits=("w4a4",),
        )
        for name in ("mask_rcnn", "upernet")
    ),
    Instrument(
        "configs/imagenet_sample/deit_tiny_w8a8.py",
        needs=("IMAGENET_SAMPLE_ROOT", "DEIT_TINY"),
        options=(
            f"test_dataloader.dataset.indices={list(range(1, 1000, 5))}".replace(" ", ""),
            "dfq.generate.images=16",
            "dfq.generate.steps=40",
        ),
    ),
    Instrument(
        "benchmarks/recipes/dinov2_saliency/vit_small_w8a8.py",
        needs=("DINOV2_FOCUS_ROOT",),
        options=("test_dataloader.dataset.indices=48", "dfq.generate.images=8"),
    ),
)


def missing(instrument: Instrument) -> list[str]:
    """The environment variables that an instrument needs and that name no file or folder."""
    return [name for name in instrument.needs if not os.environ.get(name) or not Path(os.environ[name]).exists()]


def measure(instrument: Instrument, folder: Path) -> Results:
    """Run an instrument's rows in a process of their own.

    Raises:
        PSAQError: The process failed.
    """
    command = [sys.executable, str(ROOT / "tools/ablate.py"), str(ROOT / instrument.config), "--work-dir", str(folder)]
    command += ["--arms", *ARMS, "--bits", *instrument.bits, "--seeds", "0"]
    if instrument.options:
        command += ["--cfg-options", *instrument.options]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise PSAQError(f"{instrument.config} failed with status {done.returncode}: see the lines above")
    return Results.from_dict(json.loads((folder / "ablation.json").read_text()))


def add_rows(table: Table, instrument: Instrument, results: Results) -> None:
    """Add an instrument's rows to the table."""
    for row in results.rows:
        bits = "FP32" if row.arm == "fp32" else f"W{row.weight_bits}A{row.activation_bits}"
        figures = ", ".join(f"{key.rpartition('/')[2]} {row.metrics[key]:.3f}" for key in main_metrics([row]))
        table.add_row(Path(instrument.config).stem, row.arm, bits, figures, f"{sum(row.seconds.values()):.0f}")


def main() -> int:
    """Measure every instrument whose data are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/quick_ablation"), help="folder of the rows")
    args = parser.parse_args()
    console, start = Console(), time.perf_counter()
    table = Table("network", "images", "bits", "figures", "seconds")
    for instrument in INSTRUMENTS:
        absent = missing(instrument)
        if absent:
            console.print(f"{instrument.config} is left out: set {', '.join(absent)} to its data")
            continue
        add_rows(table, instrument, measure(instrument, args.work_dir / instrument.name))
    console.print(table)
    console.print(f"{(time.perf_counter() - start) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
