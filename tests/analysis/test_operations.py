"""Multiplications of quantized layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from psaq_mm.analysis.operations import InputTensor, layer_inputs, operations, subnormal
from psaq_mm.quantization import QuantPolicy, quantize_model
from psaq_mm.quantization.matmul import QuantMatMul

CASES = {
    "Linear on 10 tokens": (nn.Linear(3, 5), (1, 10, 3), 150),
    # 4 x 4 outputs of 6 channels, each a sum over 3 channels and 3 x 3 pixels
    "Conv2d": (nn.Conv2d(3, 6, 3), (1, 3, 6, 6), 16 * 6 * 27),
    # each channel is a sum over its own pixels
    "depthwise Conv2d": (nn.Conv2d(4, 4, 3, groups=4), (1, 4, 6, 6), 16 * 4 * 9),
    # each of 9 inputs with 3 channels goes into 2 x 2 outputs with 6 channels
    "ConvTranspose2d": (nn.ConvTranspose2d(3, 6, 2, stride=2), (1, 3, 3, 3), 9 * 3 * 6 * 4),
}


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES.values(), ids=CASES)
def test_the_multiplications_of_a_layer(layer, shape, expected):
    net = quantize_model(nn.Sequential(layer), QuantPolicy())
    for quantizer in (net[0].input_quantizer, net[0].weight_quantizer):
        quantizer.enabled = False
    assert operations(net, lambda model: model(torch.randn(shape))) == {"0": expected}


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.late, self.unused, self.early = QuantMatMul(None, None), QuantMatMul(None, None), QuantMatMul(None, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = self.early(x, x.transpose(-1, -2))
        return self.late(x, x)


def test_layers_are_in_the_order_of_execution_and_calls_add_up():
    # 2 heads, 4 tokens with 3 channels, then 4 x 4 products
    found = operations(Products(), lambda model: model(torch.randn(2, 4, 3)))
    assert list(found.items()) == [("early", 2 * 16 * 3 + 2 * 16 * 4), ("late", 2 * 16 * 4)]


def test_the_inputs_of_each_call():
    found = layer_inputs(Products(), lambda model: model(torch.randn(2, 4, 3)))
    wide, square = InputTensor((2, 4, 3)), InputTensor((2, 4, 4))
    assert found == {"early": [(wide, InputTensor((2, 3, 4))), (square, square)], "late": [(square, square)]}
    assert list(found) == ["early", "late"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 1e-40, 1.0, -2.0], 0.25), ([0.0, 1.2e-38, -1e30], 0.0), ([-1e-44] * 39 + [1.0], 1.0)],
    ids=["one of four", "none", "steps of 0.05"],
)
def test_the_share_of_subnormal_numbers(values, expected):
    assert subnormal(torch.tensor(values)) == expected
