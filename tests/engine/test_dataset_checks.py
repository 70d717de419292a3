"""Data sets of other classes than the model, and those that cannot be read: one line, before any long work."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.console import Console
from torch import nn

from psaq_mm.cli import import_host
from psaq_mm.engine.dataset_checks import build_dataset, class_count
from psaq_mm.engine.job import Job
from psaq_mm.errors import UsageError
from psaq_mm.models import without_downloads
from tests.conftest import ROOT, SIZE, named
from tests.engine.test_tasks import DELETE, float_model, shrunken


class Classifier(nn.Module):
    """As much of one as a data set is compared with."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Module()
        self.head.num_classes = classes


@pytest.fixture(autouse=True)
def _hosts():
    for scope in ("mmdet", "mmseg", "mmpretrain"):
        import_host(Config({"default_scope": scope}))
    init_default_scope("mmpretrain")


def listed(folder: Path, text: str, **more) -> dict:
    """The config of an image list."""
    (folder / "list.txt").write_text(text)
    return {"type": "mmpretrain.CustomDataset", "data_root": str(folder), "ann_file": "list.txt", **more}


def labels(*numbers: int) -> str:
    return "".join(f"{index}.png {number}\n" for index, number in enumerate(numbers))


CAT_DOG = {"metainfo": {"classes": ("cat", "dog")}}
TO_DO = "give the data set of the classes that the model was trained for, or a config and a checkpoint for those of"


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (labels(*range(10)), {}, "has labels up to 9, that is 10 classes or more, the model has 5: "),
        (labels(0, 5), {}, "has labels up to 5, that is 6 classes or more, the model has 5: "),
        (labels(0, 1), CAT_DOG, "has 2 classes, the model has 5: "),
        (labels(0, -1), {}, "has the label -1: number its classes from 0"),
    ],
    ids=["ten", "one-too-many", "names", "negative"],
)
@pytest.mark.parametrize("wrapper", [None, "RepeatDataset", "ConcatDataset"], ids=["plain", "repeated", "joined"])
def test_an_image_list_with_the_wrong_classes_says_so(tmp_path, text, more, said, wrapper):
    described = listed(tmp_path, text, **more)
    if wrapper == "RepeatDataset":
        described = {"type": wrapper, "times": 2, "dataset": described}
    elif wrapper:
        described = {"type": wrapper, "datasets": [listed(tmp_path, text, **more), described]}
    with pytest.raises(UsageError) as error:
        build_dataset(described, Classifier(5))
    line = str(error.value)
    assert line.startswith(f"the data set {tmp_path / 'list.txt'} {said}") and "\n" not in line
    assert "number its" in said or TO_DO in line


@pytest.mark.parametrize(
    ("text", "more", "classes"),
    [
        (labels(0, 3), {}, 5),
        (labels(0, 0), CAT_DOG, 2),
        ("a.png\nb.png\n", {"with_label": False}, 5),
        (labels(0, 9), {}, None),
    ],
    ids=["a-sample", "all-names", "without-labels", "a-model-that-does-not-say"],
)
def test_an_image_list_may_lack_classes(tmp_path, text, more, classes):
    model = Classifier(classes) if classes else nn.Module()
    assert len(build_dataset(listed(tmp_path, text, **more), model)) == 2


def test_an_image_may_have_several_labels(tmp_path):
    images = [{"img_path": "a.png", "gt_label": [0, 1]}, {"img_path": "b.png", "gt_label": [6]}]
    metainfo = {"classes": [str(number) for number in range(5)]}
    (tmp_path / "many.json").write_text(json.dumps({"metainfo": metainfo, "data_list": images}))
    described = {"type": "mmpretrain.MultiLabelDataset", "data_root": str(tmp_path), "ann_file": "many.json"}
    with pytest.raises(UsageError, match="many.json has labels up to 6, that is 7 classes or more, the model has 5"):
        build_dataset(described, Classifier(5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a.png 1\nb.png\n",
            "list.txt has a broken line, number 2 ('b.png'): each line of a list of images is a file name",
        ),
        ("a.png 1\n\nb.png 1\n", "list.txt has a broken line, number 2 (''): "),
        ("two words.png cat\n", "list.txt has a broken line, number 1 ('two words.png cat'): "),
        ("", "list.txt has no images: "),
    ],
    ids=["no-label", "blank", "no-number", "empty"],
)
def test_a_list_that_cannot_be_read(tmp_path, text, said):
    with pytest.raises(UsageError) as error:
        build_dataset(listed(tmp_path, text), Classifier(5))
    assert said in str(error.value) and "\n" not in str(error.value)


COCO = {"type": "mmdet.CocoDataset", "ann_file": "a.json"}
SEGMENTS = {"type": "mmseg.ADE20KDataset", "data_prefix": {"img_path": "images", "seg_map_path": "labels"}}
FOLDER = {"type": "mmpretrain.CustomDataset", "data_prefix": "images"}


@pytest.mark.parametrize(
    ("described", "annotations", "said"),
    [
        (FOLDER, None, "/images has no images: "),
        (SEGMENTS, None, "/images has no images: "),
        (COCO, '{"images": [], "annotations": [], "categories": []}', "/a.json has no images: "),
        (COCO, '{"images": [', "/a.json cannot be read (JSONDecodeError: Expecting value: line 1"),
        (COCO, "{}", "/a.json cannot be read (KeyError: 'categories')"),
        ({**FOLDER, "prefix": "x"}, None, "/images cannot be read (TypeError: "),
    ],
    ids=["classifier", "segmentor", "detector", "truncated", "no-coco", "unknown-key"],
)
def test_data_that_cannot_be_read(tmp_path, described, annotations, said):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    if annotations is not None:
        (tmp_path / "a.json").write_text(annotations)
    with pytest.raises(UsageError) as error:
        build_dataset({**described, "data_root": str(tmp_path)}, Classifier(5))
    assert f"the data set {tmp_path}{said}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "described",
    [COCO, {**SEGMENTS, "ann_file": "a.json"}, {**FOLDER, "ann_file": "a.json"}],
    ids=["detector", "segmentor", "classifier"],
)
def test_a_missing_list_is_missing_data(tmp_path, described):
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError) as error:
        build_dataset({**described, "data_root": str(tmp_path)}, Classifier(5))
    assert error.value.filename == str(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ("demo/mask_rcnn_swin_nano_w8a8", 5),
        ("cascade_mask_rcnn_swin_t_w8a8", 80),
        ("upernet_swin_t_w8a8", 150),
        ("deit_tiny_w8a8", 1000),
    ],
)
def test_the_head_says_how_many_classes(config, classes):
    cfg = Config.fromfile(ROOT / "configs" / f"{config}.py")
    init_default_scope(cfg.default_scope)
    assert class_count(MODELS.build(without_downloads(cfg.model))) == classes


def test_timms_classifiers_say_it_too(tmp_path):
    assert class_count(float_model(shrunken("timm", tmp_path, {"model.num_classes": 7}))) == 7


@pytest.fixture(params=["detector", "segmentor", "classifier"])
def wrong(request, recipe, tmp_path) -> tuple[Config, str]:
    """A task's recipe whose evaluation set is of other classes than the model, and what is said of it."""
    if request.param == "detector":
        return recipe({"test_dataloader.dataset.metainfo": {"classes": ("disc", "ring", "star")}}), (
            "val.json has 3 classes, the model has 5"
        )
    options = {"model.head.num_classes": 5} if request.param == "classifier" else {}
    cfg = named(shrunken(request.param, tmp_path, options), tmp_path / "work")
    torch.save({"state_dict": float_model(cfg).state_dict()}, cfg.load_from)
    if request.param == "classifier":
        pipeline = cfg.test_dataloader.dataset.pipeline
        cfg.test_dataloader.dataset = {**listed(tmp_path, labels(*range(10))), "pipeline": pipeline}
        return cfg, "list.txt has labels up to 9, that is 10 classes or more, the model has 5"
    folder = tmp_path / "data" / "images" / "validation"
    folder.mkdir(parents=True)
    (folder / "a.jpg").touch()
    cfg.test_dataloader.dataset.metainfo = {"classes": ("wall", "building", "sky")}
    return cfg, "images/validation has 3 classes, the model has 150"


def test_it_is_said_before_the_evaluation(wrong, monkeypatch):
    cfg, said = wrong
    job = Job(cfg, Console(quiet=True))
    monkeypatch.setattr(type(job.runner), "test", lambda self: pytest.fail("it evaluates"))
    with pytest.raises(UsageError, match=said):
        job.run()


def test_real_images_are_looked_at_before_the_evaluation(wrong):
    cfg, said = wrong
    dataset = copy.deepcopy(cfg.test_dataloader.dataset.to_dict())
    real = {"type": "psaq_mm.RealImagesLoop", "images": 2, "image_size": SIZE, "dataset": dataset, **DELETE}
    cfg.merge_from_dict({"dfq.generate": real})
    with pytest.raises(UsageError, match=said):
        Job(cfg, Console(quiet=True)).runner.prepare()


def test_the_command_line_says_one_line(run_dfq):
    outcome = run_dfq({"test_dataloader.dataset.metainfo": {"classes": ("disc", "ring", "star")}})
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
    assert outcome.code == 2 and "val.json has 3 classes, the model has 5: give the data set" in line
