"""Pictures of a report: encoded below a number of bytes, and predictions drawn into them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .contents import Picture

# Together, 8 comparisons of two pictures and the grid of samples take two megabytes; plotly takes five of the eight.
PICTURE_BYTES, GRID_BYTES = 72_000, 400_000
LONG_SIDE, GRID_SIDE = 640, 1280
QUALITIES = (88, 75, 60, 45)
# Smaller images are enlarged to it, so that the pixels of generated images are not blurred by the browser.
SHORT_SIDE = 256
# Okabe and Ito's colours, which the colour-blind can tell apart, without black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
OTHER = "#8a8a8a"
# Share of a class's colour in a mask.
OPACITY = 0.6
# Detections of a lower score are not drawn; AgreementHook leaves them out too.
MIN_SCORE = 0.3


def encoded(
    pixels: np.ndarray, title: str, description: str, limit: int = PICTURE_BYTES, long_side: int = LONG_SIDE
) -> Picture:
    """Encode a picture as JPEG of at most so many bytes: first quality is lowered, then the size.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        title: Text above the picture.
        description: What it shows.
        limit: Largest number of bytes.
        long_side: Larger pictures are shrunk to this long side.
    """
    image = Image.fromarray(pixels)
    factor = SHORT_SIDE // min(image.size)
    if factor > 1 and max(image.size) * factor <= long_side:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    while True:
        image.thumbnail((long_side, long_side))
        for quality in QUALITIES:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality, optimize=True)
            if file.tell() <= limit or (long_side < 64 and quality == QUALITIES[-1]):
                uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
                return Picture(title, description, uri, image.width, image.height)
        long_side = max(image.size) * 3 // 4


def drawn_detections(pixels: np.ndarray, sample: Any, meta: dict[str, Any]) -> np.ndarray:
    """A picture with a model's boxes and masks.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        sample: A data sample with ``pred_instances``.
        meta: ``classes`` and ``palette`` of the data set.
    """
    # Not imported at the top, since it imports mmdet, which segmentors and classifiers do not need.
    from ..visualization.detections import draw

    return draw(pixels, sample, meta, MIN_SCORE)


def class_colours(maps: Sequence[np.ndarray], classes: int) -> dict[int, str]:
    """A colour for each class in class maps.

    If there are colours for all classes, each has its own in every picture. Else the largest classes of these maps get
    one each, and all others the same grey.

    Args:
        maps: Class of each pixel, ``(H, W)``.
        classes: Number of classes of the model, 0 if it is not known.

    Returns:
        Colours ``#rrggbb`` by class, the largest class first.
    """
    found, counts = np.unique(np.concatenate([one.ravel() for one in maps]), return_counts=True)
    ordered = [int(one) for one in found[np.argsort(-counts, kind="stable")]]
    if 0 < classes <= len(COLOURS):
        return {one: COLOURS[one] if 0 <= one < len(COLOURS) else OTHER for one in ordered}
    return {one: COLOURS[rank] if rank < len(COLOURS) else OTHER for rank, one in enumerate(ordered)}


def drawn_classes(pixels: np.ndarray, classes: np.ndarray, colours: dict[int, str]) -> np.ndarray:
    """A picture in grey with the colours of its classes.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        classes: Class of each pixel, ``(H, W)``.
        colours: By class.
    """
    table = np.array([rgb(colours[one]) for one in sorted(colours)], dtype=np.float64)
    painted = table[np.searchsorted(sorted(colours), classes)]
    grey = pixels.mean(axis=2, keepdims=True)
    mixed: np.ndarray = np.round(OPACITY * painted + (1 - OPACITY) * grey)
    return mixed.astype(np.uint8)


def drawn_differences(pixels: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A pale picture with the pixels in which two class maps differ in dark red."""
    grey = np.repeat(160 + pixels.mean(axis=2, keepdims=True) * 95 / 255, 3, axis=2)
    return np.where((one != other)[..., None], np.array(rgb("#8b1a00"), dtype=np.float64), grey).astype(np.uint8)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#rrggbb``, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
