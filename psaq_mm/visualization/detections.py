"""Detections of the float and the quantized model side by side, by mmdet's own API and visualiser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from ..errors import PSAQError, UsageError
from ..models.checkpoint import read_checkpoint
from ..utils.config_lookup import find_config, find_file

SHORT_SIDE = 480
# What one picture of a page may measure at most, and a page without its titles: viewers open that.
LONG_SIDE, PAGE_HEIGHT = 1280, 4096
GAP, TITLE_HEIGHT, TITLE_SIZE = 8, 36, 22


def open_detector(config: Path, checkpoint: Path, device: str) -> nn.Module:
    """A detector by mmdet's ``init_detector``, after our own look at the checkpoint.

    Args:
        config: A float model's config, a recipe or an artifact's config; the package's own also by name.
        checkpoint: What belongs to it.
        device: Where it shall lie.

    Raises:
        UsageError: There is no such config.
        PSAQError: The checkpoint is missing, broken or not safe to load.
    """
    config, checkpoint = find_config(config), find_file(checkpoint)
    read_checkpoint(checkpoint)
    return init_detector(str(config), str(checkpoint), device=device)


def read_image(path: Path, flag: str = "color") -> np.ndarray:
    """An image as the hosts' pipelines read it, turned as its EXIF data say, ``(H, W, 3)`` uint8 RGB.

    Args:
        path: Its file.
        flag: mmcv's; ``'color_ignore_orientation'`` leaves it as it is stored.

    Raises:
        UsageError: It is missing or no image.
    """
    try:
        image = mmcv.imread(path, flag=flag, channel_order="rgb")
    except (OSError, ValueError, cv2.error):
        image = None
    if image is None:
        raise UsageError(f"{path} is missing or no image: give the paths of images")
    return image


def as_seen(path: Path, image: np.ndarray, sample: DetDataSample) -> np.ndarray:
    """The image in the orientation in which a model's own pipeline read it."""
    shape = tuple(sample.metainfo.get("ori_shape", image.shape[:2]))
    return image if shape == image.shape[:2] else read_image(path, "color_ignore_orientation")


def check_images(paths: Sequence[Path]) -> None:
    """Make sure that files are images, before any model looks at them.

    Raises:
        UsageError: One is missing or no image.
    """
    for path in paths:
        read_image(path)


def enlarged(image: np.ndarray, sample: DetDataSample, factor: int) -> tuple[np.ndarray, DetDataSample]:
    """Image and detections ``factor`` times as large, so that boxes and names are legible on small images.

    Args:
        image: ``(H, W, 3)``.
        sample: Its detections, in the image's pixels.
        factor: At least 1.

    Returns:
        ``(factor * H, factor * W, 3)`` and new detections.
    """
    found = sample.pred_instances.cpu().clone()
    found.bboxes = found.bboxes * factor
    if "masks" in found:
        found.masks = found.masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return image.repeat(factor, 0).repeat(factor, 1), DetDataSample(pred_instances=found)


def draw(image: np.ndarray, sample: DetDataSample, meta: dict[str, Any], threshold: float) -> np.ndarray:
    """The image with detections drawn into it, enlarged to a short side of about 480 pixels, or shrunk to 1280.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        sample: Its detections.
        meta: The data set's ``classes`` and ``palette``.
        threshold: Score below which nothing is drawn.
    """
    found = sample.pred_instances
    sample = DetDataSample(pred_instances=found[found.scores > threshold])
    image, sample = enlarged(image, sample, max(1, round(SHORT_SIDE / min(image.shape[:2]))))
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = meta
    with _fixed_colours():
        visualizer.add_datasample("picture", image, sample, draw_gt=False, pred_score_thr=threshold)
    picture = visualizer.get_image()
    if max(picture.shape[:2]) > LONG_SIDE:
        smaller = Image.fromarray(picture)
        smaller.thumbnail((LONG_SIDE, LONG_SIDE))
        picture = np.asarray(smaller)
    return picture


@contextmanager
def _fixed_colours() -> Iterator[None]:
    """mmdet varies its colours by numpy's global generator: the same here for every picture."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def side_by_side(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> Image.Image:
    """Pictures in rows, each column under its title.

    Args:
        rows: Rows of ``(H, W, 3)`` uint8; the pictures of a row are equally large.
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
    """Detections of several models on the same images, in pages of at most about 4096 pixels.

    Args:
        models: Title, config and checkpoint of each, a column.
        images: Image files, a row each.
        threshold: Score below which nothing is drawn.
        device: Where the models run.

    Yields:
        The pages, each with the titles.

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
    """Where pages go: the first to the path itself, further ones beside it (``show.png``, ``show-2.png``, …)."""
    yield out
    for number in itertools.count(2):
        yield out.with_stem(f"{out.stem}-{number}")


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"
