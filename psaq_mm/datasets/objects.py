"""Pictures of one object, as a data set of mmpretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset
from PIL import Image

from .drawn import Drawing
from .scenes import CLASSES, draw_object


def draw_objects(folder: Path, seed: tuple[int, int], images: int, size: int) -> dict[str, Any]:
    """Draw pictures of one object into a folder.

    Args:
        folder: An empty folder.
        seed: Seed of the data set and number of the split.
        images: Number of pictures.
        size: Height and width in pixels.

    Returns:
        Their classes in OpenMMLab's format.
    """
    records: dict[str, Any] = {"metainfo": {"classes": list(CLASSES)}, "data_list": []}
    for index in range(images):
        image, label = draw_object((*seed, index), size)
        name = f"{index:06d}.png"
        Image.fromarray(image).save(folder / name)
        records["data_list"].append({"img_path": name, "gt_label": label})
    return records


class DemoObjects(BaseDataset):
    """Procedurally drawn pictures of one object each; they are drawn on first use.

    Args:
        data_root: Folder for the drawn images and their classes.
        split: ``'train'`` or ``'val'``; the two never share a picture.
        images: Number of pictures.
        seed: Seed of the pictures.
        size: Height and width in pixels.
        **kwargs: Arguments of ``mmpretrain.datasets.BaseDataset``.

    Raises:
        ValueError: ``split`` is neither of the two.
        UsageError: ``data_root`` contains another data set.
    """

    METAINFO = {"classes": CLASSES}

    def __init__(
        self, *, data_root: str, split: str = "val", images: int = 500, seed: int = 0, size: int = 64, **kwargs: Any
    ) -> None:
        folder = Path(data_root)
        Drawing("DemoObjects", draw_objects, "data_list", folder, split, images, seed, size, "classes").ensure()
        super().__init__(ann_file=f"{split}.json", data_root=data_root, data_prefix=f"{split}/", **kwargs)
