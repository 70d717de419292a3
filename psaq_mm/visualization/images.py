"""Images as the hosts' pipelines read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np

from ..errors import UsageError


def read_image(path: Path, flag: str = "color") -> np.ndarray:
    """Read an image as the hosts' pipelines do, ``(H, W, 3)`` uint8 RGB.

    Args:
        path: Path of the image.
        flag: Flag of ``mmcv.imread``: ``'color'`` rotates the image by its EXIF orientation,
            ``'color_ignore_orientation'`` does not.

    Raises:
        UsageError: The file is missing or not an image.
    """
    try:
        image = mmcv.imread(path, flag=flag, channel_order="rgb")
    except (OSError, ValueError, cv2.error):
        image = None
    if image is None:
        raise UsageError(f"{path} is missing or no image: give the paths of images")
    return image


def as_seen(path: Path, image: np.ndarray, sample: Any) -> np.ndarray:
    """The image in the orientation of the model's pipeline, which may ignore the EXIF orientation.

    Args:
        path: Path of the image.
        image: The image with its orientation applied, ``(H, W, 3)``.
        sample: A data sample of it with the metainfo of the pipeline.
    """
    shape = tuple(sample.metainfo.get("ori_shape", image.shape[:2]))
    return image if shape == image.shape[:2] else read_image(path, "color_ignore_orientation")
