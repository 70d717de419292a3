"""The pictures on which a report compares two models: a user's own, or generated ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import TRANSFORMS
from torch import Tensor, nn

from ..errors import PSAQError, UsageError
from ..models import pixel_bounds, takes_rgb
from ..models.hosts.language import takes_text, text_of
from ..models.hosts.types import short_type
from ..models.preprocessing import statistics
from ..visualization.images import read_image
from ..visualization.samples import image_grid

LOGGER = logging.getLogger(__name__)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
MOST_PICTURES = 8
GENERATED = 4


@dataclass(frozen=True)
class Input:
    """A picture and the batch of it that the models get.

    Attributes:
        name: Its name in the report.
        pixels: The picture, ``(H, W, 3)`` uint8 RGB.
        batch: The argument of ``test_step`` of a model of OpenMMLab, or a network input ``(1, channels, H, W)``.
        path: Its file; None for a generated image.
    """

    name: str
    pixels: np.ndarray
    batch: Any
    path: Path | None = None


def picture_files(folder: str | Path) -> list[Path]:
    """The image files in a folder, by name.

    Raises:
        UsageError: It does not exist, is no folder, or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"the folder of pictures {folder} does not exist: give a folder with images to --pictures")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UsageError(f"the folder of pictures {folder} holds no image: give one with files of {kinds}")
    return files


def inputs_of_files(
    files: list[Path], cfg: Any, model: nn.Module, warn: Callable[[str], object] = LOGGER.warning
) -> list[Input]:
    """Inputs of image files, as the test pipeline of a config makes them.

    Args:
        files: The images.
        cfg: A config with a ``test_dataloader`` and a ``default_scope``.
        model: The float model.
        warn: Receives a line for each file that cannot be read; it is left out.

    Raises:
        PSAQError: The config has no test pipeline, or no file can be read.
    """
    described = ((cfg or {}).get("test_dataloader") or {}).get("dataset") or {}
    while "dataset" in described:  # a wrapper that repeats or balances a data set
        described = described["dataset"]
    if not described.get("pipeline"):
        raise PSAQError("the config has no test pipeline for pictures: add a test_dataloader or leave out --pictures")
    steps = [step for step in described["pipeline"] if "Annotation" not in short_type(step)]
    with TRANSFORMS.switch_scope_and_registry(cfg.get("default_scope")):
        pipeline = Compose(steps)
    extra = {"text": text_of(model), "custom_entities": True} if takes_text(model) else {}
    found = []
    for number, path in enumerate(files):
        try:
            data = pipeline({"img_path": str(path), "img_id": number, **extra})
            found.append(Input(path.name, read_image(path), pseudo_collate([data]), path))
        except Exception as error:  # decoders and pipelines raise errors of any kind
            warn(f"{path.name} is left out of the report ({type(error).__name__}: {' '.join(str(error).split())})")
    if not found:
        raise PSAQError("none of the pictures can be read: give others to --pictures")
    return found


def inputs_of_images(images: Tensor, model: nn.Module) -> list[Input]:
    """Inputs of generated images.

    Args:
        images: Network inputs, ``(count, channels, H, W)``.
        model: The float model.
    """
    lower, upper = pixel_bounds(model)
    channels = list(range(len(lower)))
    if len(channels) == 3 and not takes_rgb(model):
        channels.reverse()
    found = []
    for number, image in enumerate(images.cpu(), 1):
        pixels = image_grid(image[None, channels], lower[channels], upper[channels])
        batch = host_batch(image, model) if hasattr(model, "test_step") else image[None]
        found.append(Input(f"generated image {number}", pixels, batch))
    return found


def host_batch(image: Tensor, model: nn.Module) -> dict[str, Any]:
    """A batch of one generated image for ``test_step``: what the model's data preprocessor makes the network input of.

    Args:
        image: A network input, ``(channels, H, W)``.
        model: A model of OpenMMLab.
    """
    mean, std, peak = statistics(model, len(image))
    raw = (image * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).clamp(0, peak)
    if len(raw) == 3 and takes_rgb(model):
        raw = raw.flip(0)  # pictures are read as BGR, and preprocessors reorder them
    raw = raw.round().to(torch.uint8) if peak == 255 else raw
    size = (int(image.shape[-2]), int(image.shape[-1]))
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    meta: dict[str, Any] = {**shapes, "scale_factor": (1.0, 1.0), "img_id": 0, "img_path": ""}
    if takes_text(model):
        meta |= {"text": text_of(model), "custom_entities": True}
    return {"inputs": [raw], "data_samples": [sample_class(model)(metainfo=meta)]}


def sample_class(model: nn.Module) -> Any:
    """The class of data samples of a model's library."""
    libraries = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "mmdet" in libraries:
        from mmdet.structures import DetDataSample

        return DetDataSample
    if "mmseg" in libraries:
        from mmseg.structures import SegDataSample

        return SegDataSample
    from mmpretrain.structures import DataSample

    return DataSample
