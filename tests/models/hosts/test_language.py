"""The text that a detector gets on generated images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mmdet.datasets  # noqa: F401  (registers CocoDataset)
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.errors import UsageError
from psaq_mm.models import calibration_function, output_function, without_downloads
from psaq_mm.models.hosts import host_class
from psaq_mm.models.hosts.language import names_in, set_text, takes_text, text_of
from tests.conftest import random_weights
from tests.models.hosts.grounded import DETECTORS, write_bert

META = {"dataset_meta": {"classes": ("cup", "bowl")}}


def with_data_set(dataset: dict[str, Any]) -> dict[str, Any]:
    """A config with a test set."""
    return {"test_dataloader": {"dataset": dataset}}


COCO = with_data_set({"type": "CocoDataset"})


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def models(bert) -> dict[str, Any]:
    """A detector of each kind."""
    init_default_scope("mmdet")
    host_class("GLIP")
    return {
        kind: random_weights(MODELS.build(without_downloads(Config({"model": make(bert)}).model)))
        for kind, make in DETECTORS.items()
    }


@pytest.fixture
def glip(models) -> Any:
    """Without the text of another test."""
    vars(models["glip"]).pop("calibration_text", None)
    return models["glip"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("cat", ("cat",)),
        ("cat . remote control .", ("cat", "remote control")),
        (["cat", "remote control"], ("cat", "remote control")),
    ],
    ids=["name", "caption", "list"],
)
def test_a_caption_and_a_list_are_names(given, names):
    assert names_in(given) == names


@pytest.mark.parametrize("given", ["", " . ", [], [""], 3, ["cat", 3]], ids=repr)
def test_what_is_no_text_is_one_line(given):
    with pytest.raises(UsageError, match=r"dfq\.text=.* is no text: write names"):
        names_in(given)


def coco_classes() -> tuple[str, ...]:
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO["classes"]


@pytest.mark.parametrize(
    ("cfg", "meta", "expected"),
    [
        ({**COCO, "dfq": {"text": "cat . dog"}}, META, ("cat", "dog")),
        (COCO, META, coco_classes()),
        (with_data_set({"type": "CocoDataset", "metainfo": {"classes": ("a", "b")}}), META, ("a", "b")),
        (with_data_set({"type": "RepeatDataset", "dataset": {"type": "CocoDataset"}}), {}, coco_classes()),
        (with_data_set({"type": "NoSuchDataset"}), META, ("cup", "bowl")),
        ({"test_dataloader": None}, META, ("cup", "bowl")),
        ({}, {"CLASSES": ("cup",)}, ("cup",)),
        ({}, {}, ("object",)),
    ],
    ids=["recipe", "data-set", "metainfo", "wrapper", "unknown", "checkpoint", "old-checkpoint", "none"],
)
def test_where_the_text_comes_from(glip, cfg, meta, expected):
    init_default_scope("mmdet")
    set_text(glip, Config(cfg), meta)
    assert text_of(glip) == expected


def test_a_model_that_is_tested_in_chunks_gets_the_first(glip):
    set_text(glip, Config({"dfq": {"text": "a . b . c"}}), {})
    before = glip.test_cfg
    glip.test_cfg = {**before, "chunked_size": 2}
    assert text_of(glip) == ("a", "b")
    glip.test_cfg = before


def test_other_models_take_no_text():
    model = nn.Identity()
    set_text(model, SimpleNamespace(), {})
    assert not takes_text(model) and text_of(model) == ("object",)


@pytest.mark.parametrize("kind", DETECTORS)
@torch.no_grad()
def test_the_outputs_are_those_of_the_hosts_own_prediction(models, kind, monkeypatch):
    model, images = models[kind], torch.randn(2, 3, 64, 64)
    set_text(model, Config({"dfq": {"text": "disc . ring"}}), {})
    outputs = calibration_function("model", model)(model, images)
    found = []
    # what the head gets for post-processing, from the host's own way there
    monkeypatch.setattr(model.bbox_head, "predict_by_feat", lambda *args, **_: found.append(args) or [])
    size = {key: (64, 64) for key in ("img_shape", "ori_shape", "batch_input_shape", "pad_shape")}
    from mmdet.structures import DetDataSample

    meta = {**size, "scale_factor": (1.0, 1.0), "text": ("disc", "ring"), "custom_entities": True}
    model.predict(images, [DetDataSample(metainfo=meta) for _ in images])
    (args,) = found
    if kind == "glip":
        scores, boxes, centers = args[:3]
        # CLS, disc, a full stop, ring, SEP
        scores = [one[..., :5] for one in scores]
        expected = [*scores, *boxes, *centers]
    else:
        # and a full stop at the end
        expected = [args[0][..., :6], args[1]]
    # the same computation: equal to the bit
    assert len(outputs) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def test_logits_of_glip_can_be_compared_and_queries_cannot(models):
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    logits = output_function("logits", models["glip"])(models["glip"], images)
    (gradient,) = torch.autograd.grad(sum(one.square().mean() for one in logits), images)
    assert gradient.abs().sum() > 0
    with pytest.raises(UsageError, match="GroundingDINO is no two-stage detector, one-stage detector"):
        output_function("logits", models["grounding-dino"])
