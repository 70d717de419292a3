"""One image of noise for a model of any library, in the form in which its own data loader gives images to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from psaq_mm.models.hosts.language import takes_text

from .kinds import backbone_config

# Small first: cost grows with the area.
SIDES = (64, 128, 224)
LARGEST_AREA = 512 * 512
IMAGE_KEYS = ("img_size", "pretrain_img_size", "input_size", "image_size", "input_resolution")
CHANNEL_KEYS = ("in_channels", "in_chans", "input_channels")
SCALE_KEYS = ("scale", "crop_size", "img_scale")
PROPOSALS = 4
NAMES = ("disc", "ring")


def sizes_of(model: dict[str, Any], pipeline: Any = ()) -> list[tuple[int, int]]:
    """The sizes of images to try for a model, height and width: small ones, then those that its config names.

    Args:
        model: The model's config.
        pipeline: The transforms of its test set.
    """
    backbone = backbone_config(model)
    declared = [backbone.get(key) for key in IMAGE_KEYS]
    for part in (model, model.get("detector") or {}):
        preprocessor = part.get("data_preprocessor") or {}
        declared += [preprocessor.get("size"), part.get("input_size")]
    # Position embeddings of a fixed number often fit the declared size only.
    pairs = [one for size in declared for one in as_pair(size)]
    # Transforms give width and height.
    scales = [step.get(key) for step in pipeline for key in SCALE_KEYS if isinstance(step, dict)]
    pairs += [(height, width) for size in scales for width, height in as_pair(size) if width * height <= LARGEST_AREA]
    sides = [(side, side) for side in SIDES]
    return list(dict.fromkeys([*sides, *pairs, (512, 512)]))


def as_pair(size: Any) -> Iterator[tuple[int, int]]:
    """A size of a config as height and width, if it is one."""
    sides = [size, size] if isinstance(size, int) else size
    if isinstance(sides, (list, tuple)) and len(sides) == 2 and all(isinstance(one, int) and one > 0 for one in sides):
        yield sides[0], sides[1]


def channels_of(model: dict[str, Any]) -> int:
    """The number of channels of a model's images."""
    backbone = backbone_config(model)
    found = [backbone[key] for key in CHANNEL_KEYS if isinstance(backbone.get(key), int)]
    return found[0] if found and found[0] <= 16 else 3  # beyond, it is the width of a layer


def test_data(model: nn.Module, library: str, size: tuple[int, int], channels: int = 3) -> dict[str, Any]:
    """A batch of one image as ``model.test_step`` takes it.

    Args:
        model: The float or the quantized model.
        library: The library of its class, which defines the kind of data samples.
        size: Height and width.
        channels: Number of channels.
    """
    noise = torch.randint(256, (channels, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    meta = metainfo(size)
    if library == "mmseg":
        from mmseg.structures import SegDataSample

        return {"inputs": [noise], "data_samples": [SegDataSample(metainfo=meta)]}
    if library == "mmpretrain":
        from mmpretrain.structures import DataSample

        # Pre-training's preprocessors take several views; one is a list of one.
        return {"inputs": noise[None].float(), "data_samples": [DataSample(metainfo=meta)]}
    return detection_data(model, noise, meta)


def metainfo(size: tuple[int, int]) -> dict[str, Any]:
    """What pipelines record of an image that they neither resize nor pad."""
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    named = {"img_path": "noise.png", "img_id": 0, "flip": False, "flip_direction": None}
    named |= {"org_height": size[0], "org_width": size[1]}  # CLRNet's
    return {**shapes, **named, "scale_factor": (1.0, 1.0), "border": [0, size[0], 0, size[1]]}


def detection_data(model: nn.Module, noise: Tensor, meta: dict[str, Any]) -> dict[str, Any]:
    """A batch for a model of mmdet: an image, or a video of one frame; with proposals where a detector has no RPN."""
    from mmdet.structures import DetDataSample, ReIDDataSample, TrackDataSample
    from mmengine.structures import InstanceData

    kinds = {base.__name__ for base in type(model).__mro__}
    if "BaseReID" in kinds:
        return {"inputs": [noise], "data_samples": [ReIDDataSample(metainfo=meta)]}
    height, width = meta["img_shape"]
    sample = DetDataSample(metainfo={**meta, "frame_id": 0, "ori_video_length": 1, "video_length": 1, "video_id": 0})
    if "FastRCNN" in kinds:
        corners = torch.tensor([[0.0, 0.0, width / 2, height / 2]]).repeat(PROPOSALS, 1)
        sample.proposals = InstanceData(bboxes=corners, scores=torch.full((PROPOSALS,), 0.5))
    if "BaseMOTModel" in kinds:
        video = TrackDataSample(video_data_samples=[sample], metainfo={"key_frames_inds": [0], "ref_frames_inds": []})
        return {"inputs": [noise[None]], "data_samples": [video]}
    if takes_text(model):
        sample.set_metainfo({"text": NAMES, "custom_entities": True})
    return {"inputs": [noise], "data_samples": [sample]}
