"""The demo scenes as a COCO data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from PIL import Image
from pycocotools import mask as coco_mask

from .drawn import Drawing
from .scenes import CLASSES, draw_scene


def draw_scenes(folder: Path, seed: tuple[int, int], images: int, size: int) -> dict[str, Any]:
    """Draw scenes into a folder.

    Args:
        folder: An empty folder.
        seed: Seed of the data set and number of the split.
        images: Number of scenes.
        size: Height and width in pixels.

    Returns:
        Their annotations in COCO format.
    """
    records: dict[str, Any] = {"images": [], "annotations": []}
    records["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    for index in range(images):
        scene = draw_scene((*seed, index), size)
        name = f"{index:06d}.png"
        Image.fromarray(scene.image).save(folder / name)
        records["images"].append({"id": index + 1, "file_name": name, "height": size, "width": size})
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            encoded["counts"] = encoded["counts"].decode()
            records["annotations"].append(
                {
                    "id": len(records["annotations"]) + 1,
                    "image_id": index + 1,
                    "category_id": int(label) + 1,
                    "iscrowd": 0,
                    "area": float(mask.sum()),
                    "bbox": coco_mask.toBbox(encoded).tolist(),
                    "segmentation": encoded,
                }
            )
    return records


class DemoScenes(CocoDataset):
    """Procedurally drawn scenes with instance masks; they are drawn on first use.

    Args:
        data_root: Folder for the drawn images and annotations.
        split: ``'train'`` or ``'val'``; the two never share a scene.
        images: Number of scenes.
        seed: Seed of the scenes.
        size: Height and width in pixels.
        **kwargs: Arguments of ``mmdet.datasets.CocoDataset``.

    Raises:
        ValueError: ``split`` is neither of the two.
        UsageError: ``data_root`` contains another data set.
    """

    METAINFO = {"classes": CLASSES, "palette": None}

    def __init__(
        self, *, data_root: str, split: str = "val", images: int = 200, seed: int = 0, size: int = 128, **kwargs: Any
    ) -> None:
        Drawing("DemoScenes", draw_scenes, "images", Path(data_root), split, images, seed, size).ensure()
        super().__init__(data_root=data_root, ann_file=f"{split}.json", data_prefix={"img": f"{split}/"}, **kwargs)
