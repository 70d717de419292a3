"""Grounding DINO of onedl-mmdetection 3.5 runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.layers.transformer.utils import coordinate_to_encoding
from torch import nn

from psaq_mm.models.hosts.repairs import narrow_encoding


@pytest.mark.parametrize("coordinates", [4], ids=["boxes"])
@pytest.mark.parametrize("width", [32, 128], ids=str)
def test_every_second_pair_is_the_encoding_of_half_the_length(width, coordinates):
    points = torch.rand(2, 10, coordinates)
    head = SimpleNamespace(layers=[nn.Linear(coordinates * width, 1)])
    (found,) = narrow_encoding(head, (coordinate_to_encoding(points, num_feats=2 * width),))
    expected = coordinate_to_encoding(points, num_feats=width)
    # the same exponents, computed from other numbers
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_encoding_that_fits_stays():
    head = SimpleNamespace(layers=[nn.Linear(128, 1)])
    assert narrow_encoding(head, (torch.rand(2, 10, 128),)) is None
