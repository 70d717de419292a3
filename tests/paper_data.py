"""Small stand-ins of COCO, ADE20K and ImageNet in their real layouts, and checkpoints under the official names."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn

from psaq_mm.cli import import_host
from psaq_mm.models import without_downloads
from tests.conftest import SHORT_RUN, SIZE, random_weights

IMAGES = 6
CLASS = 7  # which the stand-ins' models are sure of
SHORT = [
    *(
        f"{key}={value}"
        for key, value in SHORT_RUN.items()
        if key.startswith("dfq.") and key != "dfq.generate.image_size"
    ),
    f"dfq.generate.image_size=({SIZE},{SIZE})",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "test_dataloader.batch_size=2",
]
# What makes a model of the table small, as --cfg-options.
TINY = {
    "deit_tiny_timm": [
        "model.model_name=vit_tiny_patch16_224",
        f"model.img_size={SIZE}",
        "model.embed_dim=32",
        "model.depth=2",
        "model.num_heads=2",
        f"test_dataloader.dataset.pipeline.1.scale={SIZE}",
        f"test_dataloader.dataset.pipeline.2.crop_size={SIZE}",
    ],
    "upernet_swin_t": [
        "model.backbone.embed_dims=16",
        "model.backbone.depths=[2,1,1,1]",
        "model.backbone.num_heads=[1,2,4,8]",
        "model.decode_head.in_channels=[16,32,64,128]",
        "model.decode_head.channels=16",
        "model.auxiliary_head.in_channels=64",
        "model.auxiliary_head.channels=16",
        f"test_dataloader.dataset.pipeline.1.scale=({SIZE},{SIZE})",
    ],
    "mask_rcnn_swin_t": [
        "model.backbone.embed_dims=16",
        "model.backbone.depths=[2,1,1,1]",
        "model.backbone.num_heads=[1,2,4,8]",
        "model.neck.in_channels=[16,32,64,128]",
        "model.neck.out_channels=32",
        "model.rpn_head.in_channels=32",
        "model.rpn_head.feat_channels=32",
        "model.roi_head.bbox_roi_extractor.out_channels=32",
        "model.roi_head.bbox_head.in_channels=32",
        "model.roi_head.bbox_head.fc_out_channels=32",
        "model.roi_head.mask_roi_extractor.out_channels=32",
        "model.roi_head.mask_head.in_channels=32",
        "model.roi_head.mask_head.conv_out_channels=32",
        "model.test_cfg.rpn.max_per_img=50",
        "model.test_cfg.rcnn.max_per_img=20",
        "model.test_cfg.rcnn.score_thr=0.0",
        f"test_dataloader.dataset.pipeline.1.scale=({SIZE},{SIZE})",
    ],
}
# The layer whose bias makes a model sure of CLASS; a detector has none.
HEADS = {"deit_tiny_timm": "model.head", "upernet_swin_t": "decode_head.conv_seg"}


def picture(draw: np.random.Generator, path: Path, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    """A smooth picture of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path)


def write_imagenet(root: Path) -> Path:
    """``val/`` with all images and ``meta/val.txt``; four of six are of :data:`CLASS`."""
    draw = np.random.default_rng(0)
    names = [f"ILSVRC2012_val_{index + 1:08d}.JPEG" for index in range(IMAGES)]
    for name in names:
        picture(draw, root / "val" / name, (96, 80))
    (root / "meta").mkdir()
    lines = [f"{name} {CLASS if index % 3 else 3}" for index, name in enumerate(names)]
    (root / "meta" / "val.txt").write_text("\n".join(lines) + "\n")
    return root


def write_ade20k(root: Path) -> Path:
    """JPEG images and PNG labels of 1 to 150, where 0 is no class: half of each image is of :data:`CLASS`.

    Of the other half, one quarter of the image has another class and one quarter none. A model that says
    :data:`CLASS` everywhere has an IoU of 1/2 : 3/4 in it and of 0 in the other class.
    """
    draw = np.random.default_rng(0)
    for index in range(IMAGES):
        name = f"ADE_val_{index + 1:08d}"
        picture(draw, root / "images" / "validation" / f"{name}.jpg")
        labels = np.full((SIZE, SIZE), CLASS + 1, np.uint8)
        labels[: SIZE // 4], labels[SIZE // 4 : SIZE // 2] = 0, 100
        path = root / "annotations" / "validation" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
    return root


def write_coco(root: Path) -> Path:
    """``val2017/`` and ``instances_val2017.json`` with the 80 categories' own numbers, polygons and a crowd's RLE."""
    from mmdet.datasets import CocoDataset

    draw = np.random.default_rng(0)
    absent = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    numbers = [number for number in range(1, 91) if number not in absent]
    names = CocoDataset.METAINFO["classes"]
    images, annotations = [], []
    for index in range(IMAGES):
        number, (width, height) = 139 + 100 * index, (80, 64) if index % 2 else (64, 96)
        picture(draw, root / "val2017" / f"{number:012d}.jpg", (width, height))
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": width, "height": height})
        for crowd in (0, 1):
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[index * 10]}
            box = [8, 8, 24, 30]
            polygon = [8, 8, 32, 8, 32, 38, 8, 38]
            rle = {"counts": [0, 10, width * height - 10], "size": [height, width]}
            annotations.append(
                {
                    **about,
                    "iscrowd": crowd,
                    "bbox": box,
                    "area": 720,
                    "segmentation": rle if crowd else [polygon],
                }
            )
    categories = [{"id": one, "name": name, "supercategory": "thing"} for one, name in zip(numbers, names, strict=True)]
    (root / "annotations").mkdir()
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    return root


def write_checkpoint(cfg: Config, name: str, path: Path) -> Path:
    """A checkpoint of a recipe's float model with random weights; classifiers and segmentors always say CLASS."""
    import_host(cfg)
    init_default_scope(cfg.default_scope)
    described = without_downloads(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        described.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    model: nn.Module = random_weights(MODELS.build(described))
    if name in HEADS:
        model.get_submodule(HEADS[name]).bias.data[CLASS] = 100.0
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": model.state_dict()}, path)
    return path
