"""Pictures of the detections of several models side by side, by mmdet's API and visualizer."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from ..errors import PSAQError
from ..models.checkpoint import read_checkpoint
from ..utils.config_lookup import find_config, find_file
from .images import as_seen, read_image

SHORT_SIDE = 480
# Largest side of one picture, and largest height of a page without its titles, so that viewers can open it.
LONG_SIDE, PAGE_HEIGHT = 1280, 4096
GAP, TITLE_HEIGHT, TITLE_SIZE = 8, 36, 22


def open_detector(config: Path, checkpoint: Path, device: str) -> nn.Module:
    """Build a detector by mmdet's ``init_detector``, after a check of the checkpoint.

    Args:
        config: Path of a float model's config, a recipe or an artifact's config; or the name of one of the package's.
        checkpoint: Path of the checkpoint.
        device: Device of the model.

    Raises:
        UsageError: The config does not exist.
        PSAQError: The checkpoint is missing, damaged or not safe to load.
    """
    config, checkpoint = find_config(config), find_file(checkpoint)
    read_checkpoint(checkpoint)
    return init_detector(str(config), str(checkpoint), device=device)


def check_images(paths: Sequence[Path]) -> None:
    """Check that files are images.

    Raises:
        UsageError: A file is missing or not an image.
    """
    for path in paths:
        read_image(path)


def enlarged(image: np.ndarray, sample: DetDataSample, factor: int) -> tuple[np.ndarray, DetDataSample]:
    """Enlarge an image and its detections, so that boxes and names are legible on small images.

    Args:
        image: ``(H, W, 3)``.
        sample: Its detections, in pixels of the image.
        factor: The scale, at least 1.

    Returns:
        The image, ``(factor * H, factor * W, 3)``, and its detections.
    """
    found = sample.pred_instances.cpu().clone()
    found.bboxes = found.bboxes * factor
    if "masks" in found:
        found.masks = found.masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return image.repeat(factor, 0).repeat(factor, 1), DetDataSample(pred_instances=found)


def draw(image: np.ndarray, sample: DetDataSample, meta: dict[str, Any], threshold: float) -> np.ndarray:
    """Draw detections into an image, enlarged to a short side of about 480, or shrunk to a long side of 1280 pixels.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        sample: Its detections.
        meta: The data set's ``classes`` and ``palette``.
        threshold: Only detections with a higher score are drawn.
    """
    found = sample.pred_instances
    sample = DetDataSample(pred_instances=found[found.scores > threshold])
    image, sample = enlarged(image, sample, max(1, round(SHORT_SIDE / min(image.shape[:2]))))
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = meta
    with _fixed_colours(), warnings.catch_warnings():
        # Boxes that reach beyond the picture are usual.
        warnings.filterwarnings("ignore", ".*is out of bounds", UserWarning)
        visualizer.add_datasample("picture", image, sample, draw_gt=False, pred_score_thr=threshold)
    picture = visualizer.get_image()
    if max(picture.shape[:2]) > LONG_SIDE:
        smaller = Image.fromarray(picture)
        smaller.thumbnail((LONG_SIDE, LONG_SIDE))
        picture = np.asarray(smaller)
    return picture


@contextmanager
def _fixed_colours() -> Iterator[None]:
    """Seed numpy's global generator, from which mmdet draws its colours, and restore its state afterwards."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def side_by_side(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> Image.Image:
    """Arrange pictures in rows, with a title above each column.

    Args:
        rows: Rows of pictures ``(H, W, 3)`` uint8; the pictures of a row have the same size.
        titles: One for each column.
    """
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    height = TITLE_HEIGHT + sum(row[0].shape[0] for row in rows) + GAP * (len(rows) - 1)
    canvas = Image.new("RGB", (sum(widths) + GAP * (len(titles) - 1), height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(TITLE_SIZE)
    left = 0
    for column, title in enumerate(titles):
        pen.text((left + widths[column] / 2, TITLE_HEIGHT / 2), title, "black", font, anchor="mm")
        top = TITLE_HEIGHT
        for row in rows:
            canvas.paste(Image.fromarray(row[column]), (left, top))
            top += row[column].shape[0] + GAP
        left += widths[column] + GAP
    return canvas


def compare(
    models: Sequence[tuple[str, Path, Path]], images: Sequence[Path], threshold: float, device: str
) -> Iterator[Image.Image]:
    """Draw the detections of several models on the same images, in pages with a height of about 4096 pixels at most.

    Args:
        models: Title, config and checkpoint of each model, which gets a column.
        images: Image files, one for each row.
        threshold: Only detections with a higher score are drawn.
        device: Device of the models.

    Yields:
        The pages.

    Raises:
        PSAQError: A checkpoint cannot be loaded.
        UsageError: A config or an image is missing.
    """
    check_images(images)
    detectors = [open_detector(config, checkpoint, device) for _, config, checkpoint in models]
    meta: Any = detectors[0].dataset_meta
    titles = [title for title, _, _ in models]
    page: list[list[np.ndarray]] = []
    for path in images:
        image, row = read_image(path), []
        for (_, config, _), detector in zip(models, detectors, strict=True):
            sample = inference_detector(detector, str(path))
            if "bboxes" not in sample.pred_instances:
                raise PSAQError(f"{config} gives no boxes: only detectors can be shown")
            row.append(draw(as_seen(path, image, sample), sample, meta, threshold))
        if page and sum(one[0].shape[0] + GAP for one in [*page, row]) > PAGE_HEIGHT:
            yield side_by_side(page, titles)
            page = []
        page.append(row)
    yield side_by_side(page, titles)


def page_paths(out: Path) -> Iterator[Path]:
    """The paths of the pages: ``show.png``, ``show-2.png``, ``show-3.png``, …"""
    yield out
    for number in itertools.count(2):
        yield out.with_stem(f"{out.stem}-{number}")


def default_device() -> str:
    """``'cuda:0'`` if a GPU is available, else ``'cpu'``."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"
