"""What a profile is summed over."""

from __future__ import annotations

import pytest

from psaq_mm.deployment import KINDS, by_kind


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, {}),
        ({"Conv": 2.0, "MatMul": 1.0, "Subgraph": 0.5}, {"products": 3.0, "rest": 0.5}),
        ({"MatMulIntegerToFloat": 1.0, "FullyConnected": 2.0}, {"products": 3.0}),
        ({"MVN": 1.0, "Softmax": 2.0, "Gelu": 4.0}, {"norms, softmax, GELU": 7.0}),
        ({"Transpose": 1.0, "Reorder": 2.0, "Pad": 4.0}, {"layout": 7.0}),
        ({"QuantizeLinear": 1.0, "FakeQuantize": 2.0, "NeverHeardOf": 4.0}, {"quantize": 3.0, "rest": 4.0}),
    ],
    ids=["nothing", "example", "fused", "norms", "layout", "quantize-and-unknown"],
)
def test_kinds(seconds, expected):
    assert by_kind(seconds) == dict.fromkeys(KINDS, 0.0) | expected
