"""Time a recipe's whole model from image to predictions: torch, both engines in FP32 and INT8, and NNCF's INT8."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from benchmarks.model_benchmark import ModelBenchmark
from benchmarks.model_inputs import noise_images, real_images
from benchmarks.model_run import Batch, FixedRois, fix_rois, score_of_candidates
from benchmarks.nncf_parts import check_nncf
from benchmarks.timing import cpu, threads
from psaq_mm.cli import CONSOLE, benchmark_arguments, positive, read_config, run_tool
from psaq_mm.deployment.parts import static_parts
from psaq_mm.engine.builder import build_pair
from psaq_mm.engine.recipe import recipe_of
from psaq_mm.errors import UsageError
from psaq_mm.models import calibration_function
from psaq_mm.models.checkpoint import load_weights, read_checkpoint
from psaq_mm.quantization import calibrating, freeze
from psaq_mm.utils.atomic_files import save_json, writable_file
from psaq_mm.utils.records import merge_record, read_record
from psaq_mm.visualization.record_tables import record_markdown

COMPARED = 4  # images of the comparison with the float model


def main() -> int:
    """Parse, build, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    benchmark_arguments(parser, "deploy_model.json")
    parser.add_argument("--rounds", type=positive, default=10, help="how often each is timed (default: 10)")
    parser.add_argument("--nncf", action="store_true", help="also what NNCF makes of the float model")
    parser.add_argument("--samples", type=positive, help="images of calibrations (default: 32; 2 with --random)")
    parser.add_argument("--quantized", type=Path, help="quantized.pth of a run with scope=model, instead of noise")
    parser.add_argument("--proposals", type=positive, help="fixed number of proposals (default with --random: 1000)")
    parser.add_argument("--masks", type=positive, help="fixed number of detections (default with --random: 100)")
    args = parser.parse_args()
    record = read_record(writable_file(args.out), "benchmark_models", cpu=cpu(), threads=args.threads)
    if args.nncf:
        check_nncf()
    cfg = read_config(args)
    if not recipe_of(cfg).get("quantization"):
        raise UsageError(f"{cfg.filename} has no dfq.quantization: give a recipe")
    cfg.merge_from_dict({"dfq.quantization.scope": "model"})
    size = args.size[0], args.size[1]
    teacher, student = build_pair(cfg, args.random, size)
    with CONSOLE.status("timing"), threads(args.threads), tempfile.TemporaryDirectory() as folder:
        samples = args.samples or (2 if args.random else 32)
        batches = images_of(cfg, args, teacher, size, samples)
        prepare_student(args, teacher, student, size, samples)
        rois = fixed_rois(args, teacher, batches[0], size)
        name = args.name or Path(args.config).stem
        nncf = batches[COMPARED:] if args.nncf else None
        benchmark = ModelBenchmark(
            name, cfg, teacher, student, batches[:COMPARED], Path(folder), args.threads, rois, nncf
        )
        found = benchmark.run(args.rounds, compare=not args.random)
    record = merge_record(record, found)
    save_json(record, args.out)
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    CONSOLE.print(f"{args.out}")
    return 0


def images_of(cfg: Config, args: Any, teacher: nn.Module, size: tuple[int, int], samples: int) -> list[Batch]:
    """Images: those of the comparison, the first of which is timed, then those of NNCF's calibration."""
    if args.random:
        return noise_images(teacher, size, COMPARED + samples)
    return real_images(cfg, teacher, size, COMPARED + (samples if args.nncf else 0))


def prepare_student(args: Any, teacher: nn.Module, student: nn.Module, size: tuple[int, int], samples: int) -> None:
    """Calibrate the student on noise, or load the result of a run."""
    if args.quantized is not None:
        loaded = read_checkpoint(args.quantized, hint="give the quantized.pth that tools/dfq.py left")
        load_weights(student, loaded["state_dict"], str(args.quantized))
        student.eval()
        return
    forward = calibration_function("model", teacher)
    with calibrating(student), torch.no_grad():
        for images, _ in noise_images(teacher, size, 1 if args.random else samples):
            forward(student, images)
    freeze(student)


def fixed_rois(args: Any, teacher: nn.Module, batch: Batch, size: tuple[int, int]) -> FixedRois | None:
    """How many boxes all contenders have; None where they find their own.

    Raises:
        UsageError: Numbers are given for a model without RoIs.
    """
    asked = args.proposals or args.masks
    if len(static_parts(teacher)) == 1:
        if asked:
            raise UsageError(f"{type(teacher).__name__} has no RoIs: leave out --proposals and --masks")
        return None
    if not (asked or args.random):
        return None
    rois = FixedRois(args.proposals or 1000, args.masks or 100)
    fix_rois(teacher, size, rois)
    # As many pairs of box and class compete as there are boxes: random weights score all classes alike.
    score = score_of_candidates(teacher, batch, rois.proposals)
    for module, method in ((teacher.rpn_head, "predict"), (teacher.roi_head, "predict_bbox")):
        delattr(module, method)
    return FixedRois(rois.proposals, rois.masks, score)


if __name__ == "__main__":
    sys.exit(run_tool(main))
