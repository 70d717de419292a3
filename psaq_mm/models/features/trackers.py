"""The outputs of mmdet's models for video: trackers with a detector inside, and those that segment whole videos."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .detectors import tensors

# A name instead of the class, since other recipes need no mmdet.
TRACKER = "mmdet.BaseMOTModel"


def detector_inside(model: nn.Module) -> nn.Module | None:
    """The detector of a tracker, which finds objects in single images; None for a model without one."""
    found = getattr(model, "detector", None)
    return found if isinstance(found, nn.Module) else None


def video_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """The outputs of a model that segments a video as a whole, such as Mask2Former's form for video.

    Args:
        model: It has a backbone and a ``track_head``.
        images: ``(images, channels, H, W)``, which are taken as the frames of one video.

    Returns:
        Class scores ``(1, queries, classes + 1)`` and masks ``(1, queries, images, h, w)`` of each decoder layer.
    """
    return list(tensors(model.track_head(model.backbone(images), None)))
