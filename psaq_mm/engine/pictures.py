"""Detections of the float and the quantized model side by side, by mmdet's own API and visualiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from torch import nn

from ..errors import PSAQError, UsageError
from .checkpoint import read_checkpoint
from .packaged import find_config, find_file

SHORT_SIDE = 480
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


def read_image(path: Path) -> np.ndarray:
    """An image, ``(H, W, 3)`` uint8 RGB.

    Raises:
        UsageError: It is missing or no image.
    """
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except (FileNotFoundError, UnidentifiedImageError, IsADirectoryError):
        raise UsageError(f"{path} is missing or no image: give the paths of images") from None


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


def draw(image: np.ndarray, sample: DetDataSample, meta: dict, threshold: float) -> np.ndarray:
    """The image with detections drawn into it, both enlarged to a short side of about 480 pixels.

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
    return visualizer.get_image()


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
) -> Image.Image:
    """Detections of several models on the same images.

    Args:
        models: Title, config and checkpoint of each, a column.
        images: Image files, a row each.
        threshold: Score below which nothing is drawn.
        device: Where the models run.

    Returns:
        The picture.

    Raises:
        PSAQError: A checkpoint cannot be loaded.
        UsageError: A config or an image is missing.
    """
    pixels = [read_image(path) for path in images]
    columns, meta = [], {}
    for _, config, checkpoint in models:
        model = open_detector(config, checkpoint, device)
        meta = meta or model.dataset_meta
        found = inference_detector(model, [str(path) for path in images])
        if not all("bboxes" in sample.pred_instances for sample in found):
            raise PSAQError(f"{config} gives no boxes: only detectors can be shown")
        columns.append([draw(image, sample, meta, threshold) for image, sample in zip(pixels, found, strict=True)])
    return side_by_side(list(zip(*columns, strict=True)), [title for title, _, _ in models])


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"
