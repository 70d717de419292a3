"""The backbone around an engine: sizes, batches, and what it says of images that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from psaq_mm.deployment import ExportError, RuntimeBackbone, runtime


class Halving:
    """A session that halves images in size, by a mean over two by two pixels, and gives the sum of all beside it."""

    def __init__(self, file: Path) -> None:
        height, width = (int(side) for side in file.stem.split("x"))
        self.shape = 2, 3, height, width
        self.outputs = {"maps": (2, 3, height // 2, width // 2), "sums": (2,)}

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        assert images.shape == self.shape
        count, channels, height, width = images.shape
        halves = images.reshape(count, channels, height // 2, 2, width // 2, 2).mean((3, 5))
        return [halves, images.sum((1, 2, 3))]


@pytest.fixture
def backbone(monkeypatch) -> RuntimeBackbone:
    monkeypatch.setattr(runtime, "open_session", lambda engine, file, threads: Halving(file))
    return MODELS.build({"type": "psaq_mm.RuntimeBackbone", "file": ["64x64", "8x12", "32x32"]})


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (30, 6), (64, 33)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_size_and_number_of_images(backbone, size, count):
    images = torch.rand(count, 3, *size)
    halves, sums = backbone(images)
    assert halves.shape == (count, 3, -(-size[0] // 2), -(-size[1] // 2))
    whole = torch.nn.functional.pad(images, (0, size[1] % 2, 0, size[0] % 2))
    torch.testing.assert_close(halves, torch.nn.functional.avg_pool2d(whole, 2))
    assert halves.is_contiguous()  # mmcv's RoIAlign on the CPU reads memory as if its input were
    torch.testing.assert_close(sums, images.sum((1, 2, 3)), rtol=1e-4, atol=0)


def test_the_smallest_size_that_holds_the_images_is_taken(backbone):
    assert backbone.session_for(8, 12).shape[2:] == (8, 12)
    assert backbone.session_for(9, 12).shape[2:] == (32, 32)


def test_larger_images_are_refused(backbone):
    with pytest.raises(ExportError, match=r"images of 65x10 are larger .*\(8x12, 32x32, 64x64\)"):
        backbone(torch.rand(1, 3, 65, 10))
