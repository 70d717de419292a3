"""Shared by the tests of quantization: a fixed seed and a small model with something of everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from psaq_mm.quantization import QuantPolicy, calibrating, quantize_model


class SmallNet(nn.Module):
    """A patch embedding, a normalised two-layer perceptron with a position table, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, 8) * 0.02)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position  # (B, 4, 8)
        return self.head((x + self.mlp(self.norm(x))).mean(1))  # (B, 5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float_net() -> nn.Module:
    return SmallNet().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 8, 8)


@pytest.fixture
def net(float_net: nn.Module, images: Tensor) -> nn.Module:
    """The small model, quantized and calibrated at W8A8."""
    quantize_model(float_net, QuantPolicy())
    with calibrating(float_net), torch.no_grad():
        float_net(images)
    return float_net
