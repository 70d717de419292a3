"""What the paper's table needs, and how its absence is said: everything at once, before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from psaq_mm.engine.paper.inputs import Inputs, check_inputs
from psaq_mm.engine.paper.plan import chosen_models
from tests.conftest import ROOT
from tests.paper_data import IMAGES, write_ade20k, write_coco, write_imagenet

WRITERS = {"coco": write_coco, "ade20k": write_ade20k, "imagenet": write_imagenet}
ROWS = {"coco": "mask_rcnn_swin_t", "ade20k": "upernet_swin_t", "imagenet": "deit_tiny_timm"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for option, write in WRITERS.items():
        write(folder / option)
    return folder


def official(name: str, folder: Path) -> Path:
    """The path of a model's checkpoint, as its config names it."""
    cfg = Config.fromfile(ROOT / "configs" / f"{name}_w8a8.py")
    return folder / Path(*Path(cfg.load_from).parts[1:])


def checkpoint(name: str, folder: Path) -> None:
    """A file that can be read; whether its weights fit is for the pilot to say."""
    path = official(name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, path)


def checked(option: str, root: Path, folder: Path) -> Inputs:
    checkpoint(ROWS[option], folder)
    return check_inputs(chosen_models([ROWS[option]]), {option: root}, folder, {})


@pytest.mark.parametrize("option", WRITERS)
def test_real_layouts_are_accepted(option, data, tmp_path):
    found = checked(option, data / option, tmp_path)
    assert not found.missing and not found.skipped
    assert list(found.images.values()) == [IMAGES]
    (cfg,) = found.configs.values()
    assert Path(cfg.test_dataloader.dataset.data_root) == data / option
    if option == "coco":
        assert Path(cfg.test_evaluator.ann_file) == data / option / "annotations" / "instances_val2017.json"


def test_imagenets_class_folders_are_accepted_without_a_list(data, tmp_path):
    for index in range(1000):
        (tmp_path / "val" / f"n{index:08d}").mkdir(parents=True)
    for path in (data / "imagenet" / "val").iterdir():
        shutil.copy(path, tmp_path / "val" / "n00000007")
    found = checked("imagenet", tmp_path, tmp_path / "checkpoints")
    assert not found.missing and found.images == {"ImageNet-1k": IMAGES}


def no_labels(root: Path) -> None:
    shutil.rmtree(root / "annotations")


def one_file(path: str):
    return lambda root: (root / path).unlink()


def broken(root: Path) -> None:
    (root / "meta" / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG\n")


def empty(root: Path) -> None:
    for path in (root / "images" / "validation").iterdir():
        path.unlink()


def no_images(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": [], "annotations": []}))


@pytest.mark.parametrize(
    ("option", "damage", "messages"),
    [
        pytest.param(
            "coco", no_labels, ["no {root}/annotations/instances_val2017.json:", "cocodataset.org"], id="coco-json"
        ),
        pytest.param(
            "coco", one_file("val2017/000000000139.jpg"), ["no {root}/val2017/000000000139.jpg"], id="coco-image"
        ),
        pytest.param("coco", no_images, ["no images"], id="coco-empty"),
        pytest.param(
            "ade20k", no_labels, ["no {root}/annotations/validation:", "ADEChallengeData2016"], id="ade-folder"
        ),
        pytest.param(
            "ade20k",
            one_file("annotations/validation/ADE_val_00000001.png"),
            ["no {root}/annotations/validation/ADE_val_00000001.png"],
            id="ade-label",
        ),
        pytest.param("ade20k", empty, ["no images"], id="ade-empty"),
        pytest.param(
            "imagenet",
            lambda root: shutil.rmtree(root / "val"),
            ["no {root}/val:", "image-net.org"],
            id="imagenet-folder",
        ),
        pytest.param("imagenet", one_file("meta/val.txt"), ["{root}"], id="imagenet-list"),
        pytest.param("imagenet", broken, ["val.txt has a broken line"], id="imagenet-line"),
    ],
)
def test_damaged_data_is_said(option, damage, messages, data, tmp_path):
    root = shutil.copytree(data / option, tmp_path / option)
    damage(root)
    (line,) = checked(option, root, tmp_path / "checkpoints").missing
    for message in messages:
        assert message.format(root=root) in line


def test_everything_that_is_missing_is_said_at_once(tmp_path):
    models = chosen_models(["deit_tiny_timm", "swin_tiny_timm", "cascade_mask_rcnn_swin_s", "mask_rcnn_deit_s"])
    found = check_inputs(models, {"imagenet": tmp_path, "coco": None}, tmp_path / "files", {})
    lines = "\n".join(found.missing)
    assert len(found.missing) == 6 and not found.skipped
    assert f"ImageNet-1k: there is no {tmp_path}/val: get it from https://image-net.org" in lines
    assert "COCO: --coco was not given, a folder of annotations/instances_val2017.json and val2017:" in lines
    assert (
        f"curl -L --create-dirs -o {tmp_path}/files/deit_tiny_patch16_224-a1311bcf.pth https://dl.fbaipublic" in lines
    )
    assert f"{tmp_path}/files/swin_tiny_patch4_window7_224.ms_in1k/pytorch_model.bin" in lines
    assert "python tools/convert_swin.py" in lines and "python tools/train.py" in lines
    assert "--checkpoint" not in lines.replace("checkpoints", "")


def test_what_was_not_asked_for_is_skipped_without_its_data_or_a_public_checkpoint(data, tmp_path):
    models = [
        one for one in chosen_models([]) if one.name in ("deit_tiny_timm", "mask_rcnn_deit_s", "mask_rcnn_swin_t")
    ]
    checkpoint("mask_rcnn_swin_t", tmp_path)
    found = check_inputs(models, {"coco": data / "coco"}, tmp_path, {})
    assert list(found.configs) == ["mask_rcnn_swin_t"] and not found.missing
    assert found.skipped[0] == "DeiT-T: --imagenet was not given"
    assert found.skipped[1].startswith("Mask R-CNN, DeiT-S: no public checkpoint")
    checkpoint("mask_rcnn_deit_s", tmp_path)
    found = check_inputs(models, {"coco": data / "coco"}, tmp_path, {})
    assert list(found.configs) == ["mask_rcnn_deit_s", "mask_rcnn_swin_t"]


def test_a_truncated_checkpoint_is_found_before_anything_runs(data, tmp_path):
    checkpoint("deit_tiny_timm", tmp_path)
    path = official("deit_tiny_timm", tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    found = check_inputs(chosen_models(["deit_tiny_timm"]), {"imagenet": data / "imagenet"}, tmp_path, {})
    (line,) = found.missing
    assert line.startswith("DeiT-T: the checkpoint") and "fetch it again" in line
