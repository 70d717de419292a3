"""A recipe small enough for tests, a checkpoint of its model with random weights, and one whole run of it."""

from __future__ import annotations

import copy
import itertools
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from psaq_mm import cli

ROOT = Path(__file__).parents[1]
SIZE = 64
NUMBER = itertools.count()


# A run of seconds, and no data for training or validation.
SHORT_RUN = {
    "val_dataloader": None,
    "val_evaluator": None,
    "val_cfg": None,
    "dfq.generate.images": 4,
    "dfq.generate.image_size": (SIZE, SIZE),
    "dfq.generate.batch_size": 2,
    "dfq.generate.steps": 3,
    "dfq.generate.generator.warmup": 1,
    "dfq.calibrate.images": 4,
    "dfq.calibrate.batch_size": 2,
    "dfq.report": False,  # drawing takes seconds
    "dfq.distill.cycles": 1,
    "dfq.distill.generator_steps": 2,
    "dfq.distill.generator_images": 2,
    "dfq.distill.student_steps": 2,
    "dfq.distill.batch_size": 2,
}


def tiny_options(data: Path) -> dict:
    """What makes the demo's recipe take seconds: half its width, five blocks, pictures of 64 pixels, a few steps."""
    return {
        "model.backbone.embed_dims": 16,
        "model.backbone.depths": (2, 1, 1, 1),
        "model.neck.in_channels": [16, 32, 64, 128],
        "model.neck.out_channels": 32,
        "model.rpn_head.in_channels": 32,
        "model.rpn_head.feat_channels": 32,
        "model.roi_head.bbox_roi_extractor.out_channels": 32,
        "model.roi_head.bbox_head.in_channels": 32,
        "model.roi_head.bbox_head.fc_out_channels": 32,
        "model.roi_head.mask_roi_extractor.out_channels": 32,
        "model.roi_head.mask_head.in_channels": 32,
        "model.roi_head.mask_head.conv_out_channels": 32,
        "model.test_cfg.rpn.max_per_img": 100,
        # Random weights find hardly anything: many detections give a recall above 0 to compare.
        "test_evaluator.metric": ["bbox", "segm", "proposal"],
        "model.test_cfg.rcnn.max_per_img": 60,
        "model.test_cfg.rcnn.score_thr": 0.0,
        "test_dataloader.dataset.data_root": f"{data}/",
        "test_dataloader.dataset.images": 6,
        "test_dataloader.dataset.size": SIZE,
        "test_dataloader.dataset.pipeline.1.scale": (SIZE, SIZE),
        "test_evaluator.ann_file": f"{data}/val.json",
        **SHORT_RUN,
    }


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """The system refuses to write files beyond so many bytes inside the block, as a full disk does."""
    resource = pytest.importorskip("resource", reason="the system knows no limits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _no_inventory():
    """mmengine begins each log with an inventory of the machine and asks the compiler for it: half a second a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmengine.runner.runner.collect_env", dict)
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """Where the shrunken recipe's pictures are drawn on first use."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="session")
def tiny_recipe(scenes, tmp_path_factory) -> Config:
    """The demo's recipe, shrunk. To be copied, not changed: ``recipe`` does."""
    cfg = Config.fromfile(ROOT / "configs" / "demo" / "mask_rcnn_swin_nano_w8a8.py")
    cfg.merge_from_dict(tiny_options(scenes))
    cfg.load_from = str(tmp_path_factory.mktemp("checkpoint") / "tiny.pth")
    return cfg


def random_weights(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights of a seed. All of them differ from 0 and norms from the identity, so that nothing hides behind them."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan = parameter[0].numel() if parameter.dim() > 1 and "bias_table" not in name else 400
        drawn = torch.randn(parameter.shape, generator=generator) * fan**-0.5
        parameter.data = drawn + 1 if "norm" in name and name.endswith("weight") else drawn
    model.eval()  # not returned: mmdet's SwinTransformer.train() returns None
    return model


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_recipe) -> Path:
    """A checkpoint of the shrunken model with random weights, as mmengine would have written it."""
    init_default_scope("mmdet")
    model = random_weights(MODELS.build(copy.deepcopy(tiny_recipe.model)))
    meta = {"dataset_meta": {"classes": ("disc", "ring", "square", "triangle", "star")}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tiny_recipe.load_from)
    return Path(tiny_recipe.load_from)


@pytest.fixture
def recipe(tiny_recipe, tiny_checkpoint, tmp_path):
    """Makes copies of the shrunken recipe with a work dir of their own and some keys changed."""

    def make(options: dict | None = None, work_dir: Path | None = None) -> Config:
        cfg = copy.deepcopy(tiny_recipe)
        cfg.merge_from_dict(options or {})
        return named(cfg, work_dir or tmp_path / "work")

    return make


def named(cfg: Config, work_dir: Path) -> Config:
    """mmengine keeps loggers and visualisers by name for as long as a process lives: give each run its own."""
    name = f"test{os.getpid()}_{next(NUMBER)}"
    cfg.work_dir, cfg.experiment_name, cfg.visualizer.name = str(work_dir), name, name
    return cfg


@pytest.fixture(autouse=True)
def loggers_of_this_test_only() -> Iterator[None]:
    """Forgets mmengine's loggers after each test: they write to the stream that pytest captured and then closed."""
    yield
    MMLogger._instance_dict.clear()


@dataclass
class Outcome:
    """What a tool left behind when it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_here(capsys, monkeypatch):
    """Runs a tool in this process: ``run_here('dfq.py', 'config.py', '--resume')``."""

    def run(tool: str, *arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        main = runpy.run_path(str(ROOT / tool if "/" in tool else ROOT / "tools" / tool))["main"]
        # Takes mmengine's warning of another default scope, that of a test before: no tool's process has one.
        MMLogger.get_instance("run_here", log_level="ERROR")
        capsys.readouterr()
        code = cli.run_tool(main)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def run_dfq(recipe, tmp_path, run_here):
    """Runs ``tools/dfq.py`` in this process, on the shrunken recipe with some keys changed."""

    def run(options: dict | None = None, *arguments: str, config: Path | None = None) -> Outcome:
        if config is None:
            config = tmp_path / "recipe.py"
            recipe(options).dump(config)
        return run_here("dfq.py", config, *arguments)

    return run


@pytest.fixture(scope="session")
def finished(tiny_recipe, tiny_checkpoint, tmp_path_factory):
    """The work dir of one whole run of the shrunken recipe, and the job that made it."""
    from rich.console import Console

    from psaq_mm.engine.job import Job

    folder = tmp_path_factory.mktemp("finished")
    cfg = named(copy.deepcopy(tiny_recipe), folder)
    cfg.dfq.report = True
    job = Job(cfg, Console(quiet=True))
    job.run()
    return job
