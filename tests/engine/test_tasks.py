"""Segmentors and classifiers through the whole pipeline: the official recipes, shrunk, on a few images.

The labels are what the float model says of most pixels or images, so that its figures are high but not perfect, and the
quantized model's can be told from chance.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmseg.apis
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.apis import get_model
from PIL import Image
from rich.console import Console
from torch import nn

from psaq_mm.cli import import_host
from psaq_mm.engine.arms import real_dataset
from psaq_mm.engine.evaluation import evaluate
from psaq_mm.engine.job import Job
from psaq_mm.engine.results import main_metrics
from psaq_mm.models import backbone_of, pixel_bounds, takes_rgb, without_downloads
from psaq_mm.quantization import quantizers
from tests.conftest import ROOT, SHORT_RUN, SIZE, named, random_weights

IMAGES = 6
# as checkpoints of the versions before have it; not the data set's own, so that one can be told from the other
META = {"CLASSES": [f"class {index}" for index in range(150)], "PALETTE": [[index, 0, 0] for index in range(150)]}
DELETE = {"_delete_": True}
SHORT = {
    **SHORT_RUN,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "test_dataloader.batch_size": 1,
}
UPERNET = {
    "model.backbone.embed_dims": 16,
    "model.backbone.depths": [2, 1, 1, 1],
    "model.backbone.num_heads": [1, 2, 4, 8],
    "model.decode_head.in_channels": [16, 32, 64, 128],
    "model.decode_head.channels": 16,
    "model.auxiliary_head.in_channels": 64,
    "model.auxiliary_head.channels": 16,
    "test_dataloader.dataset.pipeline.1.scale": (SIZE, SIZE),
}
CROPS = {
    "test_dataloader.dataset.pipeline.1.scale": SIZE,
    "test_dataloader.dataset.pipeline.2.crop_size": SIZE,
}
DEIT = {
    **CROPS,
    "model.backbone.arch": {"embed_dims": 32, "num_layers": 2, "num_heads": 2, "feedforward_channels": 64, **DELETE},
    "model.backbone.img_size": SIZE,
    "model.head.in_channels": 32,
}
TIMM = {
    **CROPS,
    "model": {
        "type": "TimmClassifier",
        "model_name": "vit_tiny_patch16_224",
        "img_size": SIZE,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 1000,
        **DELETE,
    },
    "dfq.quantization.overrides": [{"pattern": "model.patch_embed", "bits": 8}],
}
ADE20K = {"val": "validation", "train": "training"}
# recipe, what shrinks it, headline figures, where the quantized layers lie
TASKS: dict[str, tuple[str, dict[str, Any], list[str], str]] = {
    "segmentor": ("upernet_swin_t_w8a8", UPERNET, ["aAcc", "mIoU"], "backbone."),
    "classifier": ("deit_tiny_w8a8", DEIT, ["accuracy/top1"], "backbone."),
    "timm": ("deit_tiny_w8a8", TIMM, ["accuracy/top1"], "model."),
}


def shrunken(task: str, folder: Path, options: dict | None = None) -> Config:
    """A task's recipe on images and a checkpoint below a folder."""
    recipe, smaller, _, _ = TASKS[task]
    cfg = Config.fromfile(ROOT / "configs" / f"{recipe}.py")
    data = str(folder / "data")
    places = {"test_dataloader.dataset.data_root": data, "train_dataloader.dataset.data_root": data}
    places["load_from"] = str(folder / "float.pth")
    # a copy, since mmengine takes _delete_ out of what it merges
    for some in (SHORT, smaller, places, options or {}):
        cfg.merge_from_dict(copy.deepcopy(some))
    import_host(cfg)
    init_default_scope(cfg.default_scope)
    return cfg


def float_model(cfg: Config) -> nn.Module:
    """The recipe's float model with random weights, as mmengine builds it."""
    model = without_downloads(cfg.model)
    model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    return random_weights(MODELS.build(model))


def write_data(cfg: Config, folder: Path) -> None:
    """Images for evaluation and training in the data set's own layout, and the checkpoint of what labels them."""
    draw = np.random.default_rng(0)
    model = float_model(cfg)
    torch.save({"meta": META, "state_dict": model.state_dict()}, cfg.load_from)
    segments, lines = hasattr(model, "decode_head"), []
    for split in ("val", "train"):
        place = folder / "data" / (f"images/{ADE20K[split]}" if segments else split)
        place.mkdir(parents=True)
        for index in range(IMAGES):
            # smooth, so that images differ in more than noise
            pixels = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            path = place / (f"{index}.jpg" if segments else f"{index}.png")
            image.save(path)
            bgr = np.asarray(Image.open(path))[..., ::-1].copy()
            found = predict(model, torch.from_numpy(bgr).permute(2, 0, 1))
            if segments:
                found = found.clone()
                found[: SIZE // 4] = (found[: SIZE // 4] + 1) % 150
                labels = folder / "data" / "annotations" / place.name
                labels.mkdir(parents=True, exist_ok=True)
                Image.fromarray((found + 1).numpy().astype(np.uint8)).save(labels / f"{index}.png")
            elif split == "val":
                lines.append(f"{index}.png {int(found) if index % 3 else (int(found) + 1) % 1000}")
    if lines:
        meta = folder / "data" / "meta"
        meta.mkdir()
        (meta / "val.txt").write_text("\n".join(lines))
        (meta / "train.txt").write_text("\n".join(lines))


@torch.no_grad()
def predict(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """What a model of either library says of an image in BGR: a class, or a map of classes."""
    batch = model.data_preprocessor({"inputs": [image]}, False)["inputs"]
    logits = model(batch, mode="tensor")
    if logits.dim() == 4:
        return nn.functional.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)[0].argmax(0)
    return logits[0].argmax()


@pytest.fixture(scope="module", params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(task)
    write_data(shrunken(task, folder), folder)
    return folder


@pytest.fixture(scope="module")
def job(task, folder) -> Job:
    job = Job(named(shrunken(task, folder), folder / "work"), Console(quiet=True))
    job.run()
    return job


@pytest.fixture
def again(task, folder, tmp_path) -> Callable[..., Job]:
    """Makes another job of the task with some keys changed."""
    return lambda options: Job(named(shrunken(task, folder, options), tmp_path / "work"), Console(quiet=True))


def record(job: Job) -> dict:
    return json.loads(job.path.read_text())


def test_the_record_has_both_models_figures(task, job):
    rows = record(job)["rows"]
    assert [row["arm"] for row in rows] == ["fp32", "psaq"] and record(job)["images"] == IMAGES
    headline = TASKS[task][2]
    assert main_metrics(job.results.rows) == headline
    # three quarters of the pixels, four of six images
    first = {"aAcc": 75.0, "accuracy/top1": 66.67}[headline[0]]
    assert rows[0]["metrics"][headline[0]] == pytest.approx(first, abs=0.5)
    # far above the chance of one in 150 or 1000, though random weights are sure of nothing
    assert 10 < rows[1]["metrics"][headline[0]] <= 100
    assert all(rows[1]["seconds"][stage] > 0 for stage in ("generate", "calibrate", "distill", "evaluate"))


def test_agreement_with_the_float_model_is_a_figure(task, again):
    hooks = {"custom_hooks": [{"type": "psaq_mm.AgreementHook"}], "dfq.distill.cycles": 0}
    ours = again(hooks)
    rows = ours.run().rows
    assert "float/agreement" not in rows[0].metrics
    assert main_metrics(rows) == [*TASKS[task][2], "float/agreement", *(["float/kl"] if task != "segmentor" else [])]
    # of six images or their pixels, a whole number agrees; the record has six decimals of a percentage
    compared = IMAGES * (SIZE**2 if task == "segmentor" else 1)
    agreed = rows[1].metrics["float/agreement"] * compared / 100
    assert agreed == pytest.approx(round(agreed), abs=1e-3) and 0 < agreed <= compared
    assert task == "segmentor" or 0 < rows[1].metrics["float/kl"] < 1
    assert "custom_hooks" not in Config.fromfile(ours.runner.artifact_paths[0])


def test_the_backbone_alone_is_quantized(task, job):
    student = job.runner.student
    assert backbone_of(student)[0] == TASKS[task][3].rstrip(".")
    assert all(name.startswith(TASKS[task][3]) and "head" not in name for name, _ in quantizers(student))
    assert sum(1 for _ in quantizers(student)) == record(job)["coverage"]["quantized"] > 20


def test_images_and_pixels_are_as_the_model_takes_them(job):
    lower, upper = pixel_bounds(job.runner.teacher)
    torch.testing.assert_close(lower, -torch.tensor([123.675, 116.28, 103.53]) / torch.tensor([58.395, 57.12, 57.375]))
    images = job.runner.pool.images
    assert (images >= lower.view(3, 1, 1) - 1e-5).all() and (images <= upper.view(3, 1, 1) + 1e-5).all()
    assert takes_rgb(job.runner.teacher)
    # the student of an artifact that normalised nothing would see other pixels than the teacher
    assert torch.equal(job.runner.student.data_preprocessor.mean, job.runner.teacher.data_preprocessor.mean)


def test_the_artifact_gives_the_same_figures_in_mmengines_own_runner(task, job, folder, tmp_path):
    work = folder / "work"
    cfg = named(Config.fromfile(work / "quantized.py"), tmp_path)
    cfg.load_from = str(work / "quantized.pth")
    figures = Runner.from_cfg(cfg).test()
    expected = record(job)["rows"][1]["metrics"]
    assert {key: round(float(value), 6) for key, value in figures.items()} == expected


def test_the_artifact_is_tested_on_augmented_images(task, job, folder, tmp_path):
    cfg = named(Config.fromfile(folder / "work" / "quantized.py"), tmp_path)
    if task == "segmentor":
        scales = [{"type": "Resize", "scale_factor": factor} for factor in (0.5, 1.0)]
        # the recipe's own has twelve
        cfg.tta_pipeline[-1]["transforms"][0] = scales
    figures = evaluate(cfg, folder / "work" / "quantized.pth", tmp_path, tta=True)
    assert figures.keys() == record_of(folder).keys()


def record_of(folder: Path) -> dict[str, Any]:
    """The quantized model's figures of the job in a folder."""
    return json.loads((folder / "work" / "results.json").read_text())["rows"][1]["metrics"]


@pytest.mark.parametrize("task", ["timm"], indirect=True)
def test_an_artifact_of_4_bits_keeps_folded_norms_ratios_and_its_softmax_grid(again, tmp_path):
    bits = {"dfq.quantization.weight_bits": 4, "dfq.quantization.activation_bits": 4}
    rotated = {"dfq.quantization.qk_migration": 0.5, "dfq.quantization.rotation": "hadamard"}
    ours = again({**bits, **rotated})
    expected = ours.run().rows[1].metrics
    ratios = [
        value for key, value in ours.runner.student.state_dict().items() if key.endswith(("qk.ratio", "qk.center"))
    ]
    assert ratios and all(one.numel() > 1 for one in ratios)
    options = Config.fromfile(ours.runner.artifact_paths[0]).model.quantization
    assert (options.norm_inputs, options.softmax_grid, options.softmax_granularity) == (
        "per_channel",
        "log_sqrt2",
        "per_row",
    )
    cfg = named(Config.fromfile(ours.runner.artifact_paths[0]), tmp_path / "again")
    cfg.load_from = str(ours.runner.artifact_paths[1])
    figures = Runner.from_cfg(cfg).test()
    assert {key: float(value) for key, value in figures.items()} == expected


def test_the_artifact_opens_with_the_librarys_own_api(task, job, folder):
    paths = [str(folder / "work" / f"quantized.{suffix}") for suffix in ("py", "pth")]
    if task == "segmentor":
        model = mmseg.apis.init_model(*paths, device="cpu")
        assert model.dataset_meta == {"classes": META["CLASSES"], "palette": META["PALETTE"]}
    else:
        model = get_model(paths[0], pretrained=paths[1], device="cpu")
        assert model._dataset_meta == {"classes": META["CLASSES"]}
    assert type(model) is type(job.runner.teacher)
    image = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)
    device = job.runner.device  # the library's API was asked for a model on the CPU
    model.to(device)
    for one in (model, job.runner.student):
        one.eval()
    batch = [one.data_preprocessor({"inputs": [image]}, False)["inputs"] for one in (model, job.runner.student)]
    with torch.no_grad():
        ours, theirs = model(batch[0], mode="tensor"), job.runner.student(batch[1], mode="tensor")
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"dfq.distill.distill_on": "logits", "dfq.distill.discrepancy.form": "kl"},
        {"dfq.distill.distill_on": "logits", "dfq.quantization.scope": "model"},
    ],
    ids=["kl", "whole-model"],
)
def test_logits_can_be_compared_and_heads_quantized(again, options):
    runner = again(options).runner
    runner.train()
    runner.check_calibrated()
    found = [name for name, _ in quantizers(runner.student)]
    assert any("head" in name for name in found) == ("dfq.quantization.scope" in options)


def test_real_images_are_the_training_images(task, again, job):
    data = Path(job.runner.cfg.test_dataloader.dataset.data_root)
    dataset = real_dataset(shrunken(task, data.parent))
    real = {"type": "psaq_mm.RealImagesLoop", "images": IMAGES, "image_size": SIZE, "dataset": dataset}
    runner = again({"dfq.generate": {**real, **DELETE}, "dfq.distill.cycles": 0}).runner
    runner.prepare()
    runner.stages["generate"].run()
    images = runner.pool.images
    assert images.shape == (IMAGES, 3, SIZE, SIZE)
    root = Path(dataset["data_root"])
    folder = root / "images" / "training" if "data_prefix" in dataset else root / "train"
    mean, std = (getattr(runner.teacher.data_preprocessor, name).view(1, 3, 1, 1).cpu() for name in ("mean", "std"))
    pixels = (images * std + mean).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    # mmcv and PIL decode JPEG alike; a wrong order of channels would be far off
    drawn = {np.asarray(Image.open(path)).tobytes() for path in folder.iterdir()}
    assert {image.tobytes() for image in pixels} == drawn


def test_missing_images_skip_the_evaluation(again):
    job = again({"test_dataloader.dataset.data_root": "/proc/none", "dfq.distill.cycles": 0})
    said = []
    job.say = said.append
    results = job.run()
    assert sum("evaluation skipped: /proc/none" in line for line in said) == 2
    assert [row.metrics for row in results.rows] == [{}, {}] and job.runner.artifact_paths[1].is_file()


def test_another_number_of_classes_is_said(task, again):
    key = {"segmentor": "model.decode_head", "classifier": "model.head", "timm": "model"}[task]
    options = {f"{key}.num_classes": 7}
    if task == "segmentor":
        options["model.auxiliary_head.num_classes"] = 7
    with pytest.raises(Exception, match=r"was trained for \d+ classes, the config's model has 7: set num_classes"):
        again(options).runner.prepare()
