"""Quantize one model of every family of timm, and record what came of it in results/timm_families.json.

    python -m dev.timm_table                # all families that the record lacks
    python -m dev.timm_table beit levit     # these, again

A family is a module of ``timm.models``. Of each, the model with the fewest parameters is built with random weights as
mmpretrain's ``TimmClassifier``, with fewer and narrower layers where its arguments allow it. It is quantized to W8A8 in
scope ``backbone``, calibrated on two random images, and its class scores are compared with the float model's. Each
family runs in a process of its own with a time limit.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from psaq_mm.cli import run_tool
from psaq_mm.errors import PSAQError
from psaq_mm.utils.atomic_files import save_json
from psaq_mm.visualization.record_tables import markdown

RECORD = Path("results/timm_families.json")
LIMIT_S = 300
# Parts of the names of small models, the smallest first.
SMALL_WORDS = (
    *("atto", "femto", "pico", "nano", "xxs", "xxtiny", "xx_small", "xs", "_ti_", "tiny", "wee", "mini", "little"),
    *("_m0", "_b0", "_s0", "_s1", "_l1", "_050", "_t_", "_small", "_s_", "_9_", "10", "18", "26", "_s"),
)
CANDIDATES = 5
# Of families of which only some models have attention: one that has.
WITH_ATTENTION = {
    "byobnet": "resnet50_clip",
    "metaformer": "caformer_s18",
    "mobilenetv3": "mobilenetv4_hybrid_medium_075",
}
# Arguments that shrink a model; the first set that its name accepts is used.
SHRINKING: tuple[dict[str, Any], ...] = (
    {"embed_dim": 64, "depth": 2, "num_heads": 2},
    {"embed_dims": (16, 32, 64, 128), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)},
    {"embed_dim": (32, 32, 64, 64), "depths": (1, 1, 1, 1)},
    {"dims": (16, 32, 64, 128), "depths": (1, 1, 1, 1)},
    {},
)


def families() -> dict[str, list[str]]:
    """The names of timm's models by the module that defines them."""
    import timm
    from timm.models._registry import _model_to_module

    found: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        found[_model_to_module[name]].append(name)
    return dict(sorted(found.items()))


def smallest(names: list[str]) -> str:
    """The model with the fewest parameters, of the few whose names promise the least."""
    import timm
    import torch

    sizes = {}
    for name in sorted(names, key=promise)[:CANDIDATES]:
        try:
            with torch.device("meta"):
                sizes[name] = sum(one.numel() for one in timm.create_model(name).parameters())
        except Exception:  # some compute tables of values while they are built
            continue
    return min(sizes, key=lambda name: sizes[name]) if sizes else names[0]


def promise(name: str) -> int:
    """How small a model's name says that it is; models that timm has for its own tests come last."""
    found = [place for place, word in enumerate(SMALL_WORDS) if word in name]
    return len(SMALL_WORDS) + 1 if name.startswith("test_") else min(found, default=len(SMALL_WORDS))


def build(name: str) -> tuple[Any, dict[str, Any], Any]:
    """Build a model as mmpretrain's classifier, shrunk where this works.

    Args:
        name: Its name in timm.

    Returns:
        The classifier, the arguments that shrink it, and two images.
    """
    import torch
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope("mmpretrain")
    for arguments in SHRINKING:
        try:
            torch.manual_seed(0)
            model = MODELS.build({"type": "TimmClassifier", "model_name": name, "pretrained": False, **arguments})
            model.eval()
            _, height, width = model.model.pretrained_cfg["input_size"]
            images = torch.randn(2, 3, height, width)
            with torch.no_grad():
                model(images, mode="tensor")
            return randomized(model), arguments, images
        except Exception:
            if not arguments:
                raise
    raise AssertionError("the last set of arguments is empty")


def randomized(model: Any) -> Any:
    """Give constant parameters random values: timm starts residual branches with a factor near zero.

    Biases stay zero: those of the classes would outweigh scores of a network that was not trained.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (
                not name.endswith(".bias")
                and parameter.numel() > 1
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                center = 1.0 if abs(float(parameter.flatten()[0])) > 0.5 else 0.0
                parameter.copy_(center + 0.1 * torch.randn_like(parameter))
    return model


def measure(family: str, names: list[str]) -> dict[str, Any]:
    """Quantize the smallest model of a family.

    Args:
        family: The module of timm that defines it.
        names: Its models.

    Returns:
        The family's row in the record. ``error`` is a message, or an empty string.
    """
    import torch

    from psaq_mm.models.adapters.generic import taps_of
    from psaq_mm.models.quantized import quantize_body
    from psaq_mm.quantization import QuantizedLayer, QuantMatMul, calibrating, sqnr

    row: dict[str, Any] = {"family": family, "models": len(names), "model": "", "attention": [], "error": ""}
    try:
        row["model"] = WITH_ATTENTION.get(family) or smallest(names)
        teacher, row["arguments"], images = build(row["model"])
        row["size"] = list(images.shape[2:])
        student = quantize_body(copy.deepcopy(teacher), "model", {"weight_bits": 8, "activation_bits": 8})
        with torch.no_grad(), calibrating(student):
            student(images, mode="tensor")
        with torch.no_grad(), taps_of(teacher.model) as taps:
            expected = teacher(images, mode="tensor")
            row["tapped"] = len(taps.take())
        with torch.no_grad():
            found = student(images, mode="tensor")
        holders = [one for one in student.modules() if any(isinstance(c, QuantMatMul) for c in one.children())]
        row["attention"] = sorted({host_name(type(one)) for one in holders})
        row["products"] = sum(isinstance(one, QuantMatMul) for one in student.modules())
        row["layers"] = sum(isinstance(one, QuantizedLayer) for one in student.modules())
        row["sqnr_db"] = round(sqnr(expected, found), 1)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    return row


def host_name(cls: type) -> str:
    """The library's name of a quantized attention's class, without ``Quant``."""
    host = getattr(cls, "_host", None)
    return host.__name__ if host is not None else cls.__name__.removeprefix("Quant")


def measured_apart(family: str, names: list[str]) -> dict[str, Any]:
    """:func:`measure` in a process with a time limit, which shares the libraries that are loaded here."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(measure(family, names)), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(LIMIT_S):
            return {"family": family, "models": len(names), "error": f"not done after {LIMIT_S} s"}
        row: dict[str, Any] = ours.recv()
        return row
    except EOFError:
        process.join()
        return {"family": family, "models": len(names), "error": f"the process ended with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def read_families(path: Path) -> list[dict[str, Any]]:
    """The rows of a record.

    Raises:
        PSAQError: There is no such record.
    """
    if not path.is_file():
        raise PSAQError(f"there is no {path}: make it with python -m dev.timm_table")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["families"]
    return rows


def families_table(rows: list[dict[str, Any]]) -> str:
    """The record as Markdown: families whose attention products are quantized, then the others, then errors.

    Args:
        rows: The rows of the record.
    """
    done = [row for row in rows if not row["error"] and row["products"]]
    layers = [row for row in rows if not row["error"] and not row["products"]]
    failed = [row for row in rows if row["error"]]
    head = ["`timm.models`", "models", "measured", "attention", "products", "layers", "SQNR dB"]

    def cells(row: dict[str, Any]) -> list[str]:
        return [
            row["family"],
            str(row["models"]),
            f"`{row['model']}`{', shrunk' if row['arguments'] else ''}",
            ", ".join(row["attention"]) or "-",
            str(row["products"]),
            str(row["layers"]),
            f"{row['sqnr_db']:.1f}",
        ]

    parts = [
        f"Attention products are quantized in {len(done)} families with {sum(row['models'] for row in done)} models:",
        markdown(head, map(cells, done), 4),
        f"{len(layers)} families with {sum(row['models'] for row in layers)} models have no attention made of matrix "
        "products, or one that no adapter declares. Their Linear and Conv2d layers are quantized:",
        markdown(head, map(cells, layers), 4),
    ]
    if failed:
        parts.append(markdown(["`timm.models`", "not measured"], [[row["family"], row["error"]] for row in failed]))
    return "\n\n".join(parts)


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="families to measure again; default: those that the record lacks")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_args()
    found = families()
    os.nice(10)
    import mmpretrain.models  # noqa: F401  loaded once, for all processes

    rows = {row["family"]: row for row in read_families(args.record)} if args.record.exists() else {}
    for family in args.families or [name for name in found if name not in rows]:
        row = rows[family] = measured_apart(family, found[family])
        print(family, row["error"] or f"{row['sqnr_db']} dB", flush=True)
        record = {"tool": "timm_table", "timm": timm_version(), "families": [rows[name] for name in sorted(rows)]}
        save_json(record, args.record)
    return 0


def timm_version() -> str:
    """The version of timm that the record is about."""
    import timm

    return timm.__version__


if __name__ == "__main__":
    sys.exit(run_tool(main))
