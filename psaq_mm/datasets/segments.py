"""The demo scenes with semantic maps, as a data set of mmseg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset
from PIL import Image

from .drawn import Drawing
from .scenes import CLASSES, Scene, draw_scene

IGNORED = 255


def semantic_map(scene: Scene) -> np.ndarray:
    """The class of every pixel, ``(H, W)`` uint8: 0 for background, classes from 1.

    Visible pixels of objects that are too hidden to be annotated are 255, which training and evaluation ignore.
    """
    labels = np.where(scene.unlabelled, IGNORED, 0).astype(np.uint8)
    for mask, label in zip(scene.masks, scene.labels, strict=True):
        labels[mask] = label + 1
    return labels


def draw_segments(folder: Path, seed: tuple[int, int], images: int, size: int) -> dict[str, Any]:
    """Draw scenes into ``folder/images`` and their maps into ``folder/maps``.

    Args:
        folder: An empty folder.
        seed: Seed of the data set and number of the split.
        images: Number of scenes.
        size: Height and width in pixels.

    Returns:
        The names of the pictures.
    """
    names = [f"{index:06d}.png" for index in range(images)]
    for part in ("images", "maps"):
        (folder / part).mkdir()
    for index, name in enumerate(names):
        scene = draw_scene((*seed, index), size)
        Image.fromarray(scene.image).save(folder / "images" / name)
        Image.fromarray(semantic_map(scene)).save(folder / "maps" / name)
    return {"images": names}


class DemoSegments(BaseSegDataset):
    """The scenes of :class:`psaq_mm.datasets.DemoScenes` with a class for each pixel; they are drawn on first use.

    Args:
        data_root: Folder for the drawn images and maps.
        split: ``'train'`` or ``'val'``; the two never share a scene.
        images: Number of scenes.
        seed: Seed of the scenes.
        size: Height and width in pixels.
        **kwargs: Arguments of ``mmseg.datasets.BaseSegDataset``.

    Raises:
        ValueError: ``split`` is neither of the two.
        UsageError: ``data_root`` contains another data set.
    """

    METAINFO = {
        "classes": ("background", *CLASSES),
        "palette": [[0, 0, 0], [220, 50, 47], [181, 137, 0], [133, 153, 0], [38, 139, 210], [108, 113, 196]],
    }

    def __init__(
        self, *, data_root: str, split: str = "val", images: int = 200, seed: int = 0, size: int = 128, **kwargs: Any
    ) -> None:
        Drawing("DemoSegments", draw_segments, "images", Path(data_root), split, images, seed, size, "maps").ensure()
        prefix = {"img_path": f"{split}/images", "seg_map_path": f"{split}/maps"}
        super().__init__(data_root=data_root, data_prefix=prefix, img_suffix=".png", ignore_index=IGNORED, **kwargs)
