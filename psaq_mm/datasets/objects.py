"""Pictures of one object and its class, as mmpretrain reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset
from PIL import Image

from .drawn import Drawing
from .scenes import CLASSES, draw_object


def draw_objects(folder: Path, seed: tuple[int, int], images: int, size: int) -> dict[str, Any]:
    """Draw pictures of one object into a folder.

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
    """Procedurally drawn pictures of one object each, made on first use.

    Args:
        data_root: Where the drawn images and classes are kept.
        split: ``'train'`` or ``'val'``; the two never share a picture.
        images: How many pictures.
        seed: What the pictures follow from.
        size: Height and width in pixels.
        **kwargs: As of ``mmpretrain.datasets.BaseDataset``.

    Raises:
        ValueError: If ``split`` is neither of the two.
        UsageError: If another data set lies there.
    """

    METAINFO = {"classes": CLASSES}

    def __init__(
        self, *, data_root: str, split: str = "val", images: int = 500, seed: int = 0, size: int = 64, **kwargs
    ) -> None:
        folder = Path(data_root)
        Drawing("DemoObjects", draw_objects, "data_list", folder, split, images, seed, size, "classes").ensure()
        super().__init__(ann_file=f"{split}.json", data_root=data_root, data_prefix=f"{split}/", **kwargs)
