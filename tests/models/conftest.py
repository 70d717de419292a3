"""A small Swin, float and quantized."""

from __future__ import annotations

import pytest
from mmdet.models.backbones import SwinTransformer

from tests.conftest import random_weights

SWIN = {
    "embed_dims": 16,
    "depths": (2, 2, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": 7,
    "drop_path_rate": 0.1,
    "patch_norm": True,
}
DEPTH = sum(SWIN["depths"])


@pytest.fixture
def swin() -> SwinTransformer:
    return random_weights(SwinTransformer(**SWIN))
