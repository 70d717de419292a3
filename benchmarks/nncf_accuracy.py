"""Evaluate a deployed quantized model beside the float one and beside NNCF's INT8 of it, which needs real images.

All three run through the host's evaluator; the integers of both quantizations run in OpenVINO.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from benchmarks.model_files import CONFIG, FLOAT, INTEGER, NNCF, TORCH, WEIGHTS, ModelFiles
from benchmarks.model_inputs import part_inputs, real_images
from benchmarks.nncf_parts import check_nncf, quantize_with_nncf
from psaq_mm.cli import CONSOLE, common_arguments, positive, read_config, run_tool
from psaq_mm.deployment.artifact import Artifact
from psaq_mm.deployment.export import export
from psaq_mm.deployment.parts import static_parts
from psaq_mm.engine.builder import build_pair
from psaq_mm.engine.parity import WIDTHS, figures
from psaq_mm.errors import UsageError
from psaq_mm.models import backbone_of, check_image_size
from psaq_mm.utils.atomic_files import save_json, writable_file
from psaq_mm.utils.records import merge_record, read_record
from psaq_mm.visualization.record_tables import record_markdown

OURS = "psaq_mm"


def main() -> int:
    """Parse, build, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    common_arguments(parser)
    parser.add_argument("artifact", type=Path, help="quantized.pth of a run of the recipe; quantized.py is beside it")
    parser.add_argument("--size", type=int, nargs=2, required=True, metavar=("H", "W"), help="what is exported")
    parser.add_argument("--samples", type=positive, default=32, help="training images for NNCF (default: 32)")
    parser.add_argument("--name", help="name of the model in the record (default: the config's name)")
    parser.add_argument("-o", "--out", type=Path, default=Path("deploy_nncf.json"), help="record file")
    args = parser.parse_args()
    record = read_record(writable_file(args.out), "nncf_accuracy")
    check_nncf()
    cfg = read_config(args)
    config = args.artifact.with_suffix(".py")
    if not config.is_file():
        raise UsageError(f"there is no {config}: give the quantized.pth of a work dir, with quantized.py beside it")
    artifact = Artifact(Config.fromfile(config), args.artifact)
    size = args.size[0], args.size[1]
    teacher, _ = build_pair(cfg)
    check_image_size(backbone_of(teacher)[1], size)
    name = args.name or Path(args.config).stem
    with CONSOLE.status("evaluating"), tempfile.TemporaryDirectory() as folder:
        rows = list(compare(name, cfg, teacher, artifact, size, args.samples, Path(folder)))
    record = merge_record(record, {"rows": rows})
    save_json(record, args.out)
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    CONSOLE.print(f"{args.out}", soft_wrap=True)
    return 0


def compare(
    name: str,
    cfg: Config,
    teacher: nn.Module,
    artifact: Artifact,
    size: tuple[int, int],
    samples: int,
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Quantize the float model with NNCF, and evaluate it, ours and the float model.

    Args:
        name: What the rows call the model.
        cfg: The recipe.
        teacher: The float model.
        artifact: The model that psaq_mm quantized.
        size: Height and width of the exported models.
        samples: Training images for NNCF.
        folder: For the files.

    Yields:
        ``{"model", "bits", "size", "engine", "precision", "images", "metrics"}``, where ``images`` is the number of
        real images that the quantization saw.
    """
    bits = "w{weight_bits}a{activation_bits}".format(**{**WIDTHS, **artifact.quantization})
    parts = static_parts(teacher)
    # All files come first, so that errors come before the evaluations.
    files = ModelFiles(cfg, folder, size, cores=0)
    files.export(FLOAT, teacher, ["openvino"])
    inputs = part_inputs(teacher, parts, real_images(cfg, teacher, size, samples))
    for part in parts:
        source = files.files["openvino", FLOAT][part.name]
        quantize_with_nncf(source, files.path((NNCF, INTEGER), part.name), inputs[part.name])
    files.save_torch(teacher)
    files.save_deployed((NNCF, INTEGER), teacher, parts)
    config, rest = export(artifact, folder / "ours.xml", "openvino", [size], part="model")[-2:]
    row = {"model": name, "bits": bits, "size": f"{size[0]}x{size[1]}"}
    for contender, images in (((TORCH, FLOAT), 0), ((OURS, INTEGER), 0), ((NNCF, INTEGER), samples)):
        if contender[0] == OURS:
            metrics = figures(Config.fromfile(config), rest, folder / "evaluation")
        else:
            place = files.place(contender)
            described = copy.deepcopy(artifact.cfg)
            described.model = Config.fromfile(place / CONFIG).model
            metrics = figures(described, place / WEIGHTS, folder / "evaluation")
        yield {**row, "engine": contender[0], "precision": contender[1], "images": images, "metrics": metrics}


if __name__ == "__main__":
    sys.exit(run_tool(main))
