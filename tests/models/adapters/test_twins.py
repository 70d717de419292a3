"""Twins' attention in windows: the tap cuts the same windows as the attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmpretrain.models.backbones.twins import LocallyGroupedSelfAttention as MmpretrainAttention
from mmseg.models.backbones.twins import LocallyGroupedSelfAttention as MmsegAttention

from psaq_mm.models import AttentionTaps
from psaq_mm.models.adapters.intercepted import Intercept
from tests.conftest import random_weights


@pytest.mark.parametrize("host", [MmsegAttention, MmpretrainAttention], ids=["mmseg", "mmpretrain"])
@pytest.mark.parametrize(
    "size", [(8, 8), (6, 8), (7, 5)], ids=["whole windows", "padded below", "padded on both sides"]
)
def test_tokens_are_those_of_the_windows_and_padding_is_marked(host, size):
    module = random_weights(host(16, num_heads=2, window_size=4))
    x = torch.randn(2, size[0] * size[1], 16, generator=torch.Generator().manual_seed(0))
    results: list[torch.Tensor] = []

    def product(multiply: Any, *operands: torch.Tensor) -> torch.Tensor:
        results.append(multiply(*operands))
        return results[-1]

    with torch.no_grad(), Intercept(product, fused=False):
        module(x, size)
    with torch.no_grad(), AttentionTaps(module) as taps:
        module(x, size)
        (layer,) = taps.take()
    # (images, windows, heads, tokens, channels)
    expected = results[-1].mean(2)
    assert layer.tokens.shape == expected.shape
    padded = -(-size[0] // 4) * -(-size[1] // 4) * 16 - size[0] * size[1]
    if padded == 0:
        assert layer.regions is None
        real = torch.ones(expected.shape[1:3], dtype=torch.bool)
    else:
        real = layer.regions >= 0
        assert int((~real).sum()) == padded
    # the mean over heads before and behind the windows are put together
    torch.testing.assert_close(layer.tokens[:, real], expected[:, real], atol=1e-6, rtol=1e-5)
