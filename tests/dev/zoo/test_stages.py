"""Runs of small configs in processes of their own."""

from __future__ import annotations

import os
import signal
import tempfile
import time

import pytest
import torch
from mmengine.config import Config
from torch import nn

from dev.zoo import stages as stages_module
from dev.zoo.models import (
    build_float,
    draw_weights,
    fitting_size,
    infer,
    relative_error,
    with_few_boxes,
    with_language_model,
    without_addresses,
    without_initialization,
)
from dev.zoo.process import run_apart
from dev.zoo.samples import channels_of, sizes_of
from dev.zoo.stages import Stages
from psaq_mm.models.hosts import host_class
from psaq_mm.utils.config_lookup import packaged_configs


def crash(tell):
    tell({"stage": "build"})
    os._exit(7)


def hang(tell):
    tell({"stage": "infer_float"})
    time.sleep(60)


def spin(tell):
    while True:
        pass


def greedy(tell):
    try:
        torch.empty(2**31)
    except (RuntimeError, MemoryError):
        tell({"error": "too large"})


def fill(tell):
    path = tempfile.mkdtemp()
    tell({"folder": path})
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_leaves_no_files():
    found = run_apart(fill, 30, 0)
    assert found["folder"] and not os.path.exists(found["folder"])


def test_a_crash_is_a_row():
    found = run_apart(crash, 30, 0)
    assert found["stage"] == "build" and "exit code 7" in found["error"]


def test_a_run_that_hangs_is_ended():
    found = run_apart(hang, 0.2, 0)
    assert found["stage"] == "infer_float" and found["error"].startswith("not done after") and found["seconds"] < 10


def test_a_run_that_computes_without_end_is_ended():
    assert run_apart(spin, 1, 0)["error"].startswith("not done after 1 s of CPU time")


def test_memory_is_limited():
    assert run_apart(greedy, 30, 1)["error"] == "too large"


def test_weights_are_drawn_by_a_seed():
    def build():
        with without_initialization():
            model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
            model.table = nn.Parameter(torch.empty(5))
        assert torch.isnan(model[0].weight).all() and torch.isnan(model.table).all()
        draw_weights(model)
        return model

    one, two = build().state_dict(), build().state_dict()
    assert all(torch.equal(one[key], two[key]) and torch.isfinite(one[key]).all() for key in one)
    assert torch.equal(one["1.weight"], torch.ones(8))
    assert nn.Conv2d(3, 8, 3).weight.isfinite().all()  # initialization is back


def test_sizes_are_small_ones_and_those_of_the_config():
    model = {"backbone": {"img_size": 256}, "data_preprocessor": {"size": (512, 1024)}}
    assert sizes_of(model) == [(64, 64), (128, 128), (224, 224), (256, 256), (512, 1024), (512, 512)]
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (128, 256)}, {"scale": (1333, 800)}]
    assert sizes_of({}, pipeline) == [(64, 64), (128, 128), (224, 224), (256, 128), (512, 512)]
    assert channels_of(model) == 3 and channels_of({"backbone": {"in_channels": 1}}) == 1
    assert channels_of({"backbone": {"in_channels": 64}}) == 3


class Fixed(nn.Module):
    """Takes images of one size."""

    def __init__(self, side):
        super().__init__()
        self.side, self.backbone = side, nn.Conv2d(3, 2, 4, 4)

    def test_step(self, data):
        assert data["inputs"].shape[-1] == self.side, "wrong size"


def test_the_first_size_that_fits():
    assert fitting_size(Fixed(224), sizes_of({}), "mmpretrain", 3) == ((224, 224), "predictions")
    with pytest.raises(AssertionError, match="wrong size"):
        fitting_size(Fixed(99), sizes_of({}), "mmpretrain", 3)


def test_addresses_of_checkpoints_are_removed():
    model = {"type": "LAD", "teacher_ckpt": "http://x/y.pth", "parts": [{"checkpoint": "https://z", "name": "a"}]}
    without_addresses(model)
    assert model == {"type": "LAD", "teacher_ckpt": None, "parts": [{"checkpoint": None, "name": "a"}]}


def test_few_boxes_pass():
    model = {"test_cfg": {"rpn": {"nms_pre": 1000, "max_per_img": 5}, "rcnn": [{"max_per_img": 300}]}, "depth": 101}
    with_few_boxes(model)
    assert model == {
        "test_cfg": {"rpn": {"nms_pre": 20, "max_per_img": 5}, "rcnn": [{"max_per_img": 20}]},
        "depth": 101,
    }


def test_fixed_proposals_stay():
    model = {"rpn_head": {"num_proposals": 100}, "test_cfg": {"rcnn": {"max_per_img": 100}}}
    with_few_boxes(model)
    assert model["test_cfg"]["rcnn"]["max_per_img"] == 100


def test_relative_error():
    assert relative_error([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 0.0])]) == pytest.approx(4 / 3)


DEMOS = {"deit_nano": "mmpretrain", "upernet_swin_nano": "mmseg", "mask_rcnn_swin_nano": "mmdet"}


@pytest.mark.parametrize(("name", "library"), DEMOS.items(), ids=DEMOS.values())
def test_a_model_goes_through_all_stages(name, library, monkeypatch):
    cfg = Config.fromfile(packaged_configs()[f"demo/{name}_w8a8"])
    cfg.dfq = None
    monkeypatch.setattr(stages_module, "read", lambda *_: cfg)
    told = {}
    Stages(library, name, told.update).run()
    assert "error" not in told, told
    assert told["passed"] == told["stage"] == "infer" and told["infers"] == "predictions"
    assert told["products"][0] == told["products"][1] > 0
    # 8 bits on random weights; 0 would be a model that is not quantized
    assert 0 < told["difference"] < 0.2


def test_an_error_of_the_run_has_its_stage(monkeypatch):
    cfg = Config.fromfile(packaged_configs()["demo/deit_nano_w8a8"])
    cfg.dfq = None
    monkeypatch.setattr(stages_module, "read", lambda *_: cfg)
    monkeypatch.setattr(stages_module, "short_run", lambda cycles: {"dfq.calibrate.rounding": "gptq", "dfq.x": 1})
    told = {}
    Stages("mmpretrain", "x", told.update).run()
    assert told["stage"] == "quantize" and told["passed"] == "infer_float" and "unknown keys x" in told["error"]


def test_a_folder_stands_for_the_language_model(tmp_path):
    model = {"language_model": {"name": "bert-base-uncased"}, "bbox_head": {"lang_model_name": "bert-base-uncased"}}
    model["decoder"] = [{"name": "other"}]
    with_language_model(model, tmp_path)
    assert model["language_model"]["name"] == model["bbox_head"]["lang_model_name"] == str(tmp_path)
    assert model["decoder"] == [{"name": "other"}]


def test_a_classifier_without_a_head_is_inferred_by_its_features():
    host_class("ImageClassifier", "mmpretrain")
    cfg = Config({"default_scope": "mmpretrain", "model": {"type": "ImageClassifier", "backbone": {"type": "LeNet5"}}})
    model = build_float(cfg)
    assert infer(model, "mmpretrain", (32, 32), 1) == "features"
