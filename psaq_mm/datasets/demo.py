"""The demo scenes as a COCO data set."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.dist import barrier, is_main_process
from PIL import Image
from pycocotools import mask as coco_mask

from ..errors import UsageError
from ..registry import DATASETS
from .scenes import CLASSES, draw_scene

SPLITS = {"train": 0, "val": 1}


def write_scenes(folder: Path, split: str, images: int, seed: int, size: int) -> None:
    """Draw a split in COCO format: ``folder/split/*.png`` and ``folder/split.json``.

    Drawn beside its place and renamed when it is whole, pictures last, so that an interrupted run leaves nothing that
    a later one would take for complete, nor pictures that could be somebody else's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder))
    try:
        records: dict[str, list] = {"images": [], "annotations": []}
        records["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        for index in range(images):
            scene = draw_scene((seed, SPLITS[split], index), size)
            name = f"{index:06d}.png"
            Image.fromarray(scene.image).save(scratch / name)
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
        annotations = scratch.with_suffix(".json")
        annotations.write_text(json.dumps({"info": {"seed": seed, "size": size}, **records}))
        shutil.rmtree(folder / split, ignore_errors=True)
        scratch.chmod(0o755)
        os.replace(annotations, folder / f"{split}.json")
        scratch.rename(folder / split)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.with_suffix(".json").unlink(missing_ok=True)


@DATASETS.register_module()
class DemoScenes(CocoDataset):
    """Procedurally drawn scenes with instance masks, made on first use.

    Args:
        data_root: Where the drawn images and annotations are kept.
        split: ``'train'`` or ``'val'``; the two never share a scene.
        images: How many scenes.
        seed: What the scenes follow from.
        size: Height and width in pixels.
        **kwargs: As of ``mmdet.datasets.CocoDataset``.

    Raises:
        ValueError: If ``split`` is neither of the two.
        UsageError: If another data set lies there.
    """

    METAINFO = {"classes": CLASSES, "palette": None}

    def __init__(
        self, *, data_root: str, split: str = "val", images: int = 200, seed: int = 0, size: int = 128, **kwargs
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"DemoScenes has the splits {', '.join(SPLITS)}, not {split!r}: set split to one of them.")
        folder = Path(data_root)
        if is_main_process() and not self._made(folder / f"{split}.json", images, seed, size):
            write_scenes(folder, split, images, seed, size)
        barrier()
        super().__init__(data_root=data_root, ann_file=f"{split}.json", data_prefix={"img": f"{split}/"}, **kwargs)

    @staticmethod
    def _made(annotations: Path, images: int, seed: int, size: int) -> bool:
        if not annotations.exists():
            if annotations.with_suffix("").exists():
                raise UsageError(
                    f"{annotations.with_suffix('')} has no {annotations.name} beside it and may be yours: delete it "
                    "or choose another data_root for the demo"
                )
            return False
        try:
            records = json.loads(annotations.read_text())
            info, count = records["info"], len(records["images"])
            ours = set(info) == {"seed", "size"}
        except (ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise UsageError(f"{annotations} was not made by DemoScenes: choose another data_root for the demo")
        pictures = annotations.with_suffix("").is_dir()
        return pictures and info == {"seed": seed, "size": size} and count == images
