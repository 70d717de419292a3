"""A model of each family from its checkpoint to the artifact, which the test tool of its own library evaluates.

The models are small and have random weights. The labels are what the float model says of most images or pixels, so that
figures of both models can be told from chance.
"""

from __future__ import annotations

import copy
import importlib
import json
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from rich.console import Console
from torch import nn

from psaq_mm.engine import evaluation
from psaq_mm.engine.job import Job
from psaq_mm.engine.preparation import import_host, open_config
from psaq_mm.quantization import QuantMatMul, quantized_layers
from tests.conftest import ROOT, named, random_weights
from tests.models.families import CASES
from tests.zoo import ANCHORS, CODER, DENSE_TEST, L1, MM_SEG, UPER_HEAD

IMAGES = 6
CLASSES = ["disc", "ring", "square", "triangle", "star"]
NORMALIZE = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
BASES = {"mmdet": "dfq_coco", "mmseg": "dfq_ade20k", "mmpretrain": "dfq_imagenet"}
# The float model's figures: five of six images, and all rows of 64 but 21.
HEADLINES = {"mmpretrain": ("accuracy/top1", 100 * 5 / 6), "mmseg": ("aAcc", 100 * 43 / 64)}
SHORT = {
    "images": 2,
    "batch_size": 2,
    "steps": 2,
    "generator": {"warmup": 1},
}
SHORT_CYCLE = {
    "cycles": 1,
    "generator_steps": 1,
    "generator_images": 2,
    "student_steps": 1,
    "batch_size": 2,
    "generator": {"warmup": 0},
}


@dataclass(frozen=True)
class Family:
    """A model and what is expected of its run.

    Attributes:
        library: Its library.
        model: Its config, without the normalisation of images.
        size: Side of the images.
        declared: Whether an adapter declares its attention.
        imports: Modules of the user's that the recipe imports.
    """

    library: str
    model: dict[str, Any]
    size: int = 64
    declared: bool = True
    imports: list[str] = field(default_factory=list)


def classifier(backbone: dict[str, Any], size: int = 64, **options: Any) -> Family:
    """A classifier with a head that fits the backbone's last output, which is measured when the run begins."""
    return Family("mmpretrain", {"type": "ImageClassifier", "backbone": backbone}, size, **options)


def backbone(case: str, **changes: Any) -> dict[str, Any]:
    """A backbone of the table of families, with some arguments changed."""
    return {**CASES[case].backbone, **changes}


def classifier_of(case: str, **changes: Any) -> Family:
    """See :func:`classifier`; for a backbone of the table of families."""
    return classifier(backbone(case, **changes), CASES[case].size)


def timm(case: str) -> Family:
    """A model of timm as a classifier of its own."""
    options = {key: value for key, value in CASES[case].backbone.items() if key != "type"}
    return Family("mmpretrain", {"type": "TimmClassifier", "num_classes": len(CLASSES), **options}, CASES[case].size)


def detector(backbone: dict[str, Any], channels: list[int], **options: Any) -> Family:
    """A RetinaNet of mmdet."""
    model = {
        "type": "RetinaNet",
        "backbone": backbone,
        "neck": {"type": "FPN", "in_channels": channels, "out_channels": 16, "num_outs": 5},
        "bbox_head": {
            "type": "RetinaHead",
            "num_classes": len(CLASSES),
            "in_channels": 16,
            "stacked_convs": 1,
            "feat_channels": 16,
            "anchor_generator": ANCHORS,
            "bbox_coder": CODER,
            "loss_bbox": L1,
        },
        "test_cfg": DENSE_TEST,
    }
    return Family("mmdet", model, **options)


def segmentor(backbone: dict[str, Any], channels: list[int], head: str = "UPerHead", **parts: Any) -> Family:
    """A segmentor of mmseg with one head."""
    described = {**UPER_HEAD, "type": head, "in_channels": channels, "num_classes": len(CLASSES)}
    return Family(
        "mmseg", {"type": "EncoderDecoder", "backbone": backbone, "decode_head": described, **parts, **MM_SEG}
    )


PYRAMID = {"type": "Feature2Pyramid", "embed_dim": 32, "rescales": [4, 2, 1, 0.5], "norm_cfg": {"type": "BN"}}
OWN = """
import torch
from mmengine.registry import MODELS
from torch import nn


class Mixer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        mixed = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return x + self.proj(mixed).transpose(1, 2).reshape(x.shape)


@MODELS.register_module(force=True)
class NetOfTheUser(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 8, 8)
        self.blocks = nn.ModuleList(Mixer(channels) for _ in range(2))

    def forward(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return (x,)
"""
RESNET = {"type": "ResNet", "depth": 18, "base_channels": 8}
FAMILIES: dict[str, Family] = {
    "segformer": segmentor(backbone("mmseg-mit"), [16, 32, 32, 32], "SegformerHead"),
    "twins-pcpvt": segmentor(backbone("mmseg-pcpvt"), [16, 32, 32, 64]),
    "twins-svt": segmentor(backbone("mmseg-svt"), [16, 32, 32, 64]),
    "beit-upernet": segmentor(
        backbone("mmseg-beit", num_layers=4, out_indices=(0, 1, 2, 3)), [32, 32, 32, 32], neck=PYRAMID
    ),
    "pvt-retinanet": detector(backbone("mmdet-pvt"), [16, 32, 32, 32]),
    "pvt-v2-retinanet": detector(backbone("mmdet-pvt-v2"), [16, 32, 32, 32]),
    "resnet-retinanet": detector(RESNET, [8, 16, 32, 64], declared=False),
    "beit": classifier_of("mmpretrain-beit"),
    "eva02": classifier_of("mmpretrain-eva02"),
    "xcit": classifier_of("mmpretrain-xcit", out_type="cls_token", out_indices=-1),
    "levit": classifier_of("mmpretrain-levit"),
    "tinyvit": classifier_of("mmpretrain-tinyvit"),
    "mvit": classifier_of("mmpretrain-mvit"),
    "davit": classifier_of("mmpretrain-davit"),
    "swin-v2": classifier_of("mmpretrain-swin-v2"),
    "hivit": classifier_of("mmpretrain-hivit"),
    "conformer": classifier_of("mmpretrain-conformer"),
    "mobilevit": classifier_of("mmpretrain-mobilevit"),
    "resnet": classifier(RESNET, declared=False),
    "convnext": classifier(
        {"type": "ConvNeXt", "arch": {"depths": [1, 1, 2, 1], "channels": [8, 16, 32, 64]}}, declared=False
    ),
    "timm-maxvit": timm("timm-maxvit"),
    "timm-hiera": timm("timm-hiera"),
    "timm-efficientvit": timm("timm-efficientvit-msra"),
    "user": classifier({"type": "NetOfTheUser", "channels": 16}, declared=False, imports=["net_of_the_user"]),
}
QUICK = ("resnet", "user")
# one of each library
ALONE = ("beit", "segformer", "pvt-retinanet")


@torch.no_grad()
def with_head(model: dict[str, Any], size: int) -> dict[str, Any]:
    """A classifier's config with a head for its backbone's last output: a map, or a vector of each image."""
    import_host(Config({"default_scope": "mmpretrain", "model": model}))
    init_default_scope("mmpretrain")
    built = MODELS.build(copy.deepcopy(model["backbone"]))
    built.eval()
    last = built(torch.zeros(1, 3, size, size))[-1]
    several = isinstance(last, (list, tuple))
    channels = [one.shape[1] for one in last] if several else last.shape[1]
    head = {"type": "ConformerHead" if several else "LinearClsHead", "num_classes": len(CLASSES)}
    neck = {"neck": {"type": "GlobalAveragePooling"}} if not several and last.dim() == 4 else {}
    return {**model, **neck, "head": {**head, "in_channels": channels}}


def described_data(library: str, folder: Path, size: int) -> tuple[dict[str, Any], Any]:
    """The config of the test set below a folder, and that of its evaluator."""
    root, load = str(folder / "data"), {"type": "LoadImageFromFile"}
    if library == "mmpretrain":
        dataset = {"type": "CustomDataset", "data_root": root, "ann_file": "test.txt", "classes": CLASSES}
        return {**dataset, "pipeline": [load, {"type": "PackInputs"}]}, {"type": "Accuracy", "topk": (1, 2)}
    if library == "mmseg":
        places = {"data_prefix": {"img_path": "images", "seg_map_path": "maps"}, "img_suffix": ".png"}
        dataset = {"type": "BaseSegDataset", "data_root": root, "metainfo": {"classes": CLASSES}, **places}
        pipeline = [load, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
        return {**dataset, "pipeline": pipeline}, {"type": "IoUMetric", "iou_metrics": ["mIoU"]}
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [
        load,
        {"type": "Resize", "scale": (size, size), "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": meta},
    ]
    dataset = {"type": "psaq_mm.DemoScenes", "data_root": f"{root}/", "images": IMAGES, "size": size}
    metric = {"type": "CocoMetric", "ann_file": f"{root}/val.json", "metric": ["bbox", "proposal"]}
    return {**dataset, "test_mode": True, "pipeline": pipeline}, metric


def write_recipe(family: Family, folder: Path) -> Path:
    """The recipe as a file that inherits the package's for its library."""
    kinds = {"mmdet": "DetDataPreprocessor", "mmseg": "SegDataPreProcessor", "mmpretrain": "ClsDataPreprocessor"}
    model = copy.deepcopy(family.model)
    for module in family.imports:
        importlib.import_module(module)
    if "backbone" in model and family.library == "mmpretrain":
        model = with_head(model, family.size)
    key = "to_rgb" if family.library == "mmpretrain" else "bgr_to_rgb"
    model["data_preprocessor"] = {"type": kinds[family.library], **NORMALIZE, key: True}
    dataset, evaluator = described_data(family.library, folder, family.size)
    sampler = {"type": "DefaultSampler", "shuffle": False}
    described = {
        "custom_imports": {"imports": ["psaq_mm", *family.imports], "allow_failed_imports": False},
        "default_scope": family.library,
        "model": model,
        "load_from": str(folder / "float.pth"),
        "test_dataloader": {"batch_size": 1, "num_workers": 0, "sampler": sampler, "dataset": dataset},
        "test_evaluator": evaluator,
        "test_cfg": {"type": "TestLoop"},
        "visualizer": {"type": "Visualizer"},
        "dfq": {
            "generate": {**SHORT, "image_size": (family.size, family.size)},
            "calibrate": {"images": 2, "batch_size": 2},
            "distill": SHORT_CYCLE,
        },
    }
    path = folder / "recipe.py"
    base = ROOT / "configs" / "_base_" / f"{BASES[family.library]}.py"
    path.write_text("\n".join([f"_base_ = {str(base)!r}", *(f"{key} = {value!r}" for key, value in described.items())]))
    return path


@torch.no_grad()
def write_data(family: Family, cfg: Config, folder: Path) -> None:
    """The checkpoint and, for a library without drawn scenes, images with what the float model says of most."""
    init_default_scope(family.library)
    model = random_weights(MODELS.build(copy.deepcopy(cfg.model)))
    images = draw_images(folder / "data" / "images", family.size)
    batch = model.data_preprocessor({"inputs": images}, False)["inputs"]
    settle(model, batch)
    if family.library != "mmdet":
        center(model, scores(model, batch).mean((0, 2, 3)))
        write_labels(scores(model, batch), folder / "data")
    torch.save({"state_dict": model.state_dict(), "meta": {}}, cfg.load_from)


def draw_images(folder: Path, size: int) -> list[torch.Tensor]:
    """Smooth images, so that they differ in more than noise; written, and in BGR."""
    draw, images = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for index in range(IMAGES):
        pixels = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.png")
        images.append(torch.from_numpy(np.asarray(image)[..., ::-1].copy()).permute(2, 0, 1))
    return images


def settle(model: nn.Module, batch: torch.Tensor) -> None:
    """Give batch norms the statistics of images and weights around 1, without which the signal vanishes behind them."""
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.weight.copy_(1 + 0.05 * torch.randn(norm.weight.shape))
        norm.train()
        norm.momentum = 1.0
    model(batch, mode="tensor")
    model.eval()


def scores(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Class scores ``(images, classes, h, w)``, of classifiers with h and w of 1."""
    found = model(batch, mode="tensor")
    # two classifiers of a Conformer, whose scores are added
    found = sum(found) if isinstance(found, (list, tuple)) else found
    if found.dim() == 2:
        return found[..., None, None]
    return nn.functional.interpolate(found, batch.shape[-2:], mode="bilinear", align_corners=False)


def center(model: nn.Module, mean: torch.Tensor) -> None:
    """Subtract the mean scores in the biases of the last layers: random ones would choose one class everywhere."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    last = [one for one in layers if one.weight.shape[0] == len(CLASSES) and one.bias is not None]
    for layer in last:
        layer.bias -= mean / len(last)


def write_labels(found: torch.Tensor, folder: Path) -> None:
    """What the scores say, but for the first image, or the first third of the rows of each map."""
    labels = found.argmax(1)
    if labels.shape[1] == 1:
        labels[0] = (labels[0] + 1) % len(CLASSES)
        lines = [f"images/{index}.png {int(label)}" for index, label in enumerate(labels)]
        (folder / "test.txt").write_text("\n".join(lines))
        return
    rows = labels.shape[1] // 3
    labels[:, :rows] = (labels[:, :rows] + 1) % len(CLASSES)
    (folder / "maps").mkdir()
    for index, label in enumerate(labels):
        Image.fromarray(label.numpy().astype(np.uint8)).save(folder / "maps" / f"{index}.png")


def figures_of_the_tool(library: str, config: Path, checkpoint: Path, place: Path, alone: bool) -> dict[str, Any]:
    """Run ``tools/test.py`` as a library installs it.

    Args:
        library: The library.
        config: ``quantized.py``.
        checkpoint: ``quantized.pth``.
        place: A new folder for what it writes.
        alone: Whether it runs in a process of its own, where nothing but the config says what to import.

    Returns:
        The figures that it writes.
    """
    tool = Path(importlib.import_module(library).__file__).parent / ".mim" / "tools" / "test.py"
    name = f"test_{place.name}_{next(evaluation.NUMBER)}"
    options = ["--cfg-options", f"experiment_name={name}", f"visualizer.name={name}"]
    arguments = [str(tool), str(config), str(checkpoint), "--work-dir", str(place), *options]
    if alone:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            patch.setenv("LOCAL_RANK", "0")
            runpy.run_path(str(tool), run_name="__main__")
    (written,) = place.glob("*/*.json")
    return json.loads(written.read_text())


def rounded(figures: dict[str, Any]) -> dict[str, float]:
    """Figures with six digits behind the point."""
    return {key: round(float(value), 6) for key, value in figures.items()}


@pytest.fixture
def imports_of_the_user(tmp_path, monkeypatch) -> None:
    """The user's module can be imported, and has not been."""
    (tmp_path / "net_of_the_user.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "net_of_the_user", raising=False)


def cases() -> list:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.full], id=name) for name in FAMILIES]


@pytest.mark.usefixtures("imports_of_the_user")
@pytest.mark.parametrize("name", cases())
def test_a_whole_run_and_its_artifact_in_the_librarys_own_tool(name, tmp_path):
    family = FAMILIES[name]
    cfg = named(open_config(write_recipe(family, tmp_path)), tmp_path / "work")
    write_data(family, cfg, tmp_path)
    job = Job(cfg, Console(quiet=True))
    job.run()
    float_row, row = job.results.rows
    assert float_row.metrics and float_row.metrics.keys() == row.metrics.keys()
    headline = HEADLINES.get(family.library)
    if headline is not None:
        key, expected = headline
        # two decimals in mmseg
        assert float_row.metrics[key] == pytest.approx(expected, abs=0.01)
        # more than chance; few steps, and of random weights, so no more is asked for
        assert row.metrics[key] > 100 / len(CLASSES)
    assert all(row.seconds[stage] > 0 for stage in ("generate", "calibrate", "distill", "evaluate"))
    student = job.runner.student
    assert any(quantized_layers(student))
    # products of two activations are quantized where an adapter declares the attention
    assert family.declared == any(isinstance(module, QuantMatMul) for module in student.modules())
    (log,) = (tmp_path / "work").glob("*/*.log")
    warnings = [line for line in log.read_text().splitlines() if "no adapter declares the attention of" in line]
    assert len(warnings) == (not family.declared)

    config, checkpoint = job.runner.artifact_paths
    opened = Config.fromfile(config)
    assert opened.custom_imports.imports == ["psaq_mm", *family.imports] and "runner_type" not in opened
    figures = figures_of_the_tool(family.library, config, checkpoint, tmp_path / "tested", name in ALONE)
    assert rounded({key: figures[key] for key in row.metrics}) == rounded(row.metrics)
